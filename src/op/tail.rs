//! What may follow an operation in its kernel.

use super::Op;
use crate::abi;
use crate::error::{Error, Result};

/// What follows an all-reduce in the same kernel, on every rank alike: `docs/tail.md`.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub enum Tail {
    /// Nothing.
    #[default]
    None,
    /// Residual and RMSNorm. With y, what the all-reduce alone leaves: `h = y + residual`, which replaces the residual, and
    /// `out = h / sqrt(mean of a row's h^2 + eps) * gamma`.
    RmsNorm {
        /// Added to the mean, finite and at least 0.
        eps: f32,
    },
}

impl Tail {
    /// Whether there is one.
    pub const fn is_some(self) -> bool {
        !matches!(self, Tail::None)
    }

    /// Whether `op` can have it.
    pub(super) fn check(self, op: Op) -> Result<()> {
        let Tail::RmsNorm { eps } = self else { return Ok(()) };
        if !matches!(op, Op::GemmAllReduce | Op::AllReduce) {
            let expected = format!("none: {op} has no tail, which needs whole rows of a sum on every rank");
            return Err(Error::bad_argument("tail", "RmsNorm", expected));
        }
        match eps.is_finite() && eps >= 0.0 {
            true => Ok(()),
            false => Err(Error::bad_argument("eps", eps, "a finite number, at least 0")),
        }
    }

    /// As `TwDescriptor` has it: what, and the bits of eps.
    pub(crate) const fn code(self) -> (u32, u32) {
        match self {
            Tail::None => (abi::TW_TAIL_NONE, 0),
            Tail::RmsNorm { eps } => (abi::TW_TAIL_RMS_NORM, eps.to_bits()),
        }
    }
}

// By bits: what ranks must have in common, and what a plan may be kept by.
impl PartialEq for Tail {
    fn eq(&self, other: &Tail) -> bool {
        self.code() == other.code()
    }
}
impl Eq for Tail {}
impl std::hash::Hash for Tail {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.code().hash(state);
    }
}
