//! The operations by name.

use crate::abi;

/// The operations. Shapes: `docs/api.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// `sum over ranks of x w^T`, rows split over the ranks.
    GemmReduceScatter,
    /// `sum over ranks of x w^T`, all of it on every rank.
    GemmAllReduce,
    /// The ranks' `x`, stacked, times this rank's `w^T`.
    AllGatherGemm,
    /// `sum over ranks of x`, rows split over the ranks.
    ReduceScatter,
    /// `sum over ranks of x`, all of it on every rank.
    AllReduce,
    /// The ranks' `x`, stacked, or side by side ([`Axis`](crate::Axis)).
    AllGather,
}

impl Op {
    /// All of them.
    pub const ALL: [Op; 6] = [
        Op::GemmReduceScatter,
        Op::GemmAllReduce,
        Op::AllGatherGemm,
        Op::ReduceScatter,
        Op::AllReduce,
        Op::AllGather,
    ];

    /// The name in the program: `gemm-all-reduce`.
    pub const fn name(self) -> &'static str {
        match self {
            Op::GemmReduceScatter => "gemm-reduce-scatter",
            Op::GemmAllReduce => "gemm-all-reduce",
            Op::AllGatherGemm => "all-gather-gemm",
            Op::ReduceScatter => "reduce-scatter",
            Op::AllReduce => "all-reduce",
            Op::AllGather => "all-gather",
        }
    }

    /// The inverse of [`Op::name`].
    pub fn from_name(name: &str) -> Option<Op> {
        Op::ALL.into_iter().find(|op| op.name() == name)
    }

    /// Whether it multiplies: it takes a weight, and a fused kernel exists.
    pub const fn has_gemm(self) -> bool {
        matches!(self, Op::GemmReduceScatter | Op::GemmAllReduce | Op::AllGatherGemm)
    }

    /// Whether values of several ranks are added up.
    pub const fn reduces(self) -> bool {
        !matches!(self, Op::AllGatherGemm | Op::AllGather)
    }

    pub(crate) const fn code(self) -> u32 {
        match self {
            Op::GemmReduceScatter => abi::TW_GEMM_REDUCE_SCATTER,
            Op::GemmAllReduce => abi::TW_GEMM_ALL_REDUCE,
            Op::AllGatherGemm => abi::TW_ALL_GATHER_GEMM,
            Op::ReduceScatter => abi::TW_REDUCE_SCATTER,
            Op::AllReduce => abi::TW_ALL_REDUCE,
            Op::AllGather => abi::TW_ALL_GATHER,
        }
    }

    pub(crate) fn from_code(code: u32) -> Option<Op> {
        Op::ALL.into_iter().find(|op| op.code() == code)
    }

    /// The collective that follows (or goes before) the GEMM on the unfused path; itself for a plain collective.
    pub(crate) const fn collective(self) -> Op {
        match self {
            Op::GemmReduceScatter | Op::ReduceScatter => Op::ReduceScatter,
            Op::GemmAllReduce | Op::AllReduce => Op::AllReduce,
            Op::AllGatherGemm | Op::AllGather => Op::AllGather,
        }
    }
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
