//! How matrices lie in memory: the operands of a GEMM, what a gather leaves.

use crate::abi;

/// Which dimension of a GEMM's operands is contiguous, by the letters of BLAS for row-major matrices. The result is the
/// same, to the bit: it is K that is added over, upwards, wherever it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// x `[m, k]`, weight `[n, k]`: `x weight^T`, the forward pass of `torch.nn.Linear`.
    #[default]
    Nt,
    /// x `[m, k]`, weight `[k, n]`: `x weight`. `dX = dY W`, with W as the forward pass has it.
    Nn,
    /// x `[k, m]`, weight `[k, n]`: `x^T weight`. `dW = dY^T X`. GEMMs of a rank's own ([`Gemm`](crate::Gemm)) only.
    Tn,
}

impl Layout {
    /// Rows and columns of the weight.
    pub(crate) const fn weight(self, n: usize, k: usize) -> (usize, usize) {
        match self {
            Layout::Nt => (n, k),
            Layout::Nn | Layout::Tn => (k, n),
        }
    }

    pub(crate) const fn code(self) -> u32 {
        match self {
            Layout::Nt => abi::TW_NT,
            Layout::Nn => abi::TW_NN,
            Layout::Tn => abi::TW_TN,
        }
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Layout::Nt => "NT",
            Layout::Nn => "NN",
            Layout::Tn => "TN",
        })
    }
}

/// How the matrices that an [`Op::AllGather`](crate::Op::AllGather) brings together stand in the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Axis {
    /// One below the other: rank r's rows are [`chunk`](crate::chunk)`(m, world, r)`.
    #[default]
    Rows,
    /// Side by side: rank r's columns are [`chunk`](crate::chunk)`(n, world, r)`.
    Columns,
}

impl Axis {
    pub(crate) const fn code(self) -> u32 {
        match self {
            Axis::Rows => abi::TW_ROWS,
            Axis::Columns => abi::TW_COLUMNS,
        }
    }
}

impl std::fmt::Display for Axis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Axis::Rows => "rows",
            Axis::Columns => "columns",
        })
    }
}
