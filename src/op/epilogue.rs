//! What may be made of a product in the kernel that computes it.

use crate::abi;
use crate::error::{Error, Result};

/// The activation that follows a GEMM in its kernel, of the product with what is added to it, rounded to the type: `pre`. On a
/// rank's own [`Gemm`](crate::Gemm) and on [`Op::AllGatherGemm`](crate::Op::AllGatherGemm); `docs/epilogue.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Epilogue {
    /// `out = pre`.
    #[default]
    None,
    /// `out = gelu(pre)`, the exact one: `pre` times the standard normal distribution up to it.
    Gelu,
    /// `out[:, j] = silu(pre[:, 2j]) * pre[:, 2j + 1]`: a gate's column, then what it lets through. N is even, and out half as wide.
    SwiGlu,
}

impl Epilogue {
    /// Whether there is one.
    pub const fn is_some(self) -> bool {
        !matches!(self, Epilogue::None)
    }

    /// The columns of out where the product has `n`.
    pub const fn columns(self, n: usize) -> usize {
        match self {
            Epilogue::SwiGlu => n / 2,
            _ => n,
        }
    }

    /// That a product of `n` columns can have it.
    pub(super) fn check(self, n: usize) -> Result<()> {
        match self {
            Epilogue::SwiGlu if !n.is_multiple_of(2) => {
                let expected = "an even number: SwiGLU takes columns in pairs, a gate's and what it lets through";
                Err(Error::bad_argument("n", n, expected))
            }
            _ => Ok(()),
        }
    }

    /// As `TwDescriptor` has it.
    pub(crate) const fn code(self) -> u32 {
        match self {
            Epilogue::None => abi::TW_EPILOGUE_NONE,
            Epilogue::Gelu => abi::TW_EPILOGUE_GELU,
            Epilogue::SwiGlu => abi::TW_EPILOGUE_SWIGLU,
        }
    }
}

impl std::fmt::Display for Epilogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Epilogue::None => "none",
            Epilogue::Gelu => "GELU",
            Epilogue::SwiGlu => "SwiGLU",
        })
    }
}
