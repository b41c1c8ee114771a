//! What may follow an operation in its kernel.

use super::Op;
use crate::abi;
use crate::error::{Error, Result};

/// What follows a sum over ranks in the same kernel, on every rank alike: `docs/tail.md`.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub enum Tail {
    /// Nothing.
    #[default]
    None,
    /// A residual, added in f32 to the sum and the bias before their one rounding: `out = round(sum + bias + residual)`. It has
    /// out's shape on the rank and is only read. Of an all-reduce every rank must bring the same: whoever adds up a block adds its
    /// own.
    Residual,
    /// Residual and RMSNorm, behind all-reduces alone. With y, what the all-reduce alone leaves: `h = y + residual`, which replaces the residual, and
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

    /// Whether rows are normalised, which takes all of their columns.
    pub(crate) const fn normalises(self) -> bool {
        matches!(self, Tail::RmsNorm { .. })
    }

    /// Whether `op` can have it.
    pub(super) fn check(self, op: Op) -> Result<()> {
        let eps = match self {
            Tail::None => return Ok(()),
            Tail::Residual if op.reduces() => return Ok(()),
            Tail::Residual => {
                let expected = format!("none: {op} adds nothing up that a residual could be added to");
                return Err(Error::bad_argument("tail", "Residual", expected));
            }
            Tail::RmsNorm { eps } => eps,
        };
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
            Tail::Residual => (abi::TW_TAIL_RESIDUAL, 0),
            Tail::RmsNorm { eps } => (abi::TW_TAIL_RMS_NORM, eps.to_bits()),
        }
    }
}

/// A tail in words, as it stands behind what it follows; nothing for none.
impl std::fmt::Display for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Tail::None => "",
            Tail::Residual => " with residual",
            Tail::RmsNorm { .. } => " with residual and RMSNorm",
        })
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
