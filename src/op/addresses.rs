//! Where the operands of a launch lie.

use super::Gemm;
use super::operands::Operands;
use crate::memory::{Mat, RawMat};

/// Device addresses, 0 where there is none, and leading dimensions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Addresses {
    pub x: (u64, u64),
    pub weight: (u64, u64),
    pub bias: u64,
    pub addend: (u64, u64),
    pub out: (u64, u64),
    pub residual: (u64, u64),
    pub gamma: u64,
    pub saved: (u64, u64),
}

/// Address and leading dimension.
fn of(mat: &RawMat) -> (u64, u64) {
    (mat.ptr, mat.ld as u64)
}

impl Addresses {
    /// Those of an operation.
    pub fn of(a: &Operands<'_>) -> Addresses {
        let optional = |mat: &Option<Mat<'_>>| mat.as_ref().map_or((0, 0), |mat| of(&mat.raw));
        Addresses {
            x: of(&a.x.raw),
            weight: optional(&a.weight),
            bias: optional(&a.bias).0,
            addend: optional(&a.addend),
            out: of(a.out.raw()),
            residual: a.residual.as_ref().map_or((0, 0), |residual| of(residual.raw())),
            gamma: optional(&a.gamma).0,
            saved: a.saved.as_ref().map_or((0, 0), |saved| of(&saved.raw)),
        }
    }

    /// Those of a GEMM of a rank's own.
    pub fn of_gemm(g: &Gemm<'_>) -> Addresses {
        Addresses {
            bias: g.bias.as_ref().map_or(0, |bias| bias.raw.ptr),
            // Who stores a value has read what was there.
            addend: if g.accumulate { of(&g.out.raw) } else { (0, 0) },
            saved: g.saved.as_ref().map_or((0, 0), |saved| of(&saved.raw)),
            ..Addresses::of_product([&g.x.raw, &g.weight.raw, &g.out.raw])
        }
    }

    /// Those of a product and nothing else.
    pub fn of_product([x, weight, out]: [&RawMat; 3]) -> Addresses {
        Addresses {
            x: of(x),
            weight: of(weight),
            out: of(out),
            ..Addresses::default()
        }
    }
}
