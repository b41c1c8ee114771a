//! What a linear layer is made for.

use std::ops::Range;

use crate::dtype::{DType, Wire};
use crate::error::{Error, Result};
use crate::op::{Layout, Op, OpSpec, chunk};
use crate::route::Want;

/// Along which of its dimensions a layer's weight `[out, in]` is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// Along `out`: [`ColumnParallelLinear`](super::ColumnParallelLinear).
    Column,
    /// Along `in`: [`RowParallelLinear`](super::RowParallelLinear).
    Row,
}

/// A linear layer `y = x W^T + b`, whole; equal on every rank.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct LinearSpec {
    /// Columns of x.
    pub in_features: usize,
    /// Columns of y.
    pub out_features: usize,
    /// The most rows of a batch, those of all ranks together.
    pub max_m: usize,
    /// Type of parameters, activations and gradients.
    pub dtype: DType,
    /// Whether there is a bias.
    pub bias: bool,
    /// Whether what lies between layers is split by rows.
    pub sequence_parallel: bool,
    /// Whether backward passes run, too: a layer for inference plans none and holds no memory.
    pub training: bool,
    /// Type in which partials travel.
    pub wire: Wire,
    /// The path asked for.
    pub route: Want,
}

impl LinearSpec {
    /// With a bias and for training, as `torch.nn.Linear` is; without sequence parallelism, the crate choosing the routes.
    pub fn new(in_features: usize, out_features: usize, max_m: usize, dtype: DType) -> LinearSpec {
        LinearSpec {
            in_features,
            out_features,
            max_m,
            dtype,
            bias: true,
            sequence_parallel: false,
            training: true,
            wire: Wire::default(),
            route: Want::Auto,
        }
    }

    /// With a bias, or without.
    pub fn bias(self, bias: bool) -> LinearSpec {
        LinearSpec { bias, ..self }
    }

    /// With what lies between layers split by rows, or not.
    pub fn sequence_parallel(self, sequence_parallel: bool) -> LinearSpec {
        LinearSpec {
            sequence_parallel,
            ..self
        }
    }

    /// With backward passes, or without.
    pub fn training(self, training: bool) -> LinearSpec {
        LinearSpec { training, ..self }
    }

    /// With partials in this type.
    pub fn wire(self, wire: Wire) -> LinearSpec {
        LinearSpec { wire, ..self }
    }

    /// On this route.
    pub fn route(self, route: Want) -> LinearSpec {
        LinearSpec { route, ..self }
    }

    /// The part of `out_features` (split by columns) or `in_features` (by rows) that `rank` of `world` has.
    pub fn part(&self, split: Split, world: usize, rank: usize) -> Range<usize> {
        match split {
            Split::Column => chunk(self.out_features, world, rank),
            Split::Row => chunk(self.in_features, world, rank),
        }
    }

    /// The operations of such a layer on all ranks: what a heap has to have room for
    /// ([`GroupConfig::sized_for`](crate::GroupConfig::sized_for)).
    pub fn operations(&self, split: Split, world: usize) -> Vec<OpSpec> {
        let of = |rank: usize| {
            let share = self.part(split, world, rank).len();
            let ops = match split {
                Split::Column => [self.column_gather(), self.fused_gather(share), self.column_dx(share)],
                Split::Row => [Some(self.row_forward(share)), self.row_gather(), self.row_dx(share)],
            };
            ops.into_iter().flatten()
        };
        (0..world).flat_map(of).collect()
    }

    fn op(&self, op: Op, n: usize, k: usize, whole: usize) -> OpSpec {
        let spec = OpSpec::new(op, n, k, self.max_m, self.dtype).wire(self.wire);
        match (op.has_gemm(), self.route) {
            (true, route) => spec.route(route).whole(whole),
            // There is no fused gather alone.
            (false, _) => spec,
        }
    }

    /// x, gathered for this pass and for the backward one.
    pub(super) fn column_gather(&self) -> Option<OpSpec> {
        let needed = self.sequence_parallel && self.training;
        needed.then(|| self.op(Op::AllGather, self.in_features, 0, 0))
    }

    /// x gathered on its way into the product.
    pub(super) fn fused_gather(&self, share: usize) -> Option<OpSpec> {
        let op = || self.op(Op::AllGatherGemm, share, self.in_features, self.out_features);
        self.sequence_parallel.then(|| op().bias(self.bias))
    }

    pub(super) fn column_dx(&self, share: usize) -> Option<OpSpec> {
        let op = match self.sequence_parallel {
            true => Op::GemmReduceScatter,
            false => Op::GemmAllReduce,
        };
        let dx = || {
            self.op(op, self.in_features, share, self.out_features)
                .layout(Layout::Nn)
        };
        self.training.then(dx)
    }

    pub(super) fn row_forward(&self, share: usize) -> OpSpec {
        let op = match self.sequence_parallel {
            true => Op::GemmReduceScatter,
            false => Op::GemmAllReduce,
        };
        self.op(op, self.out_features, share, self.in_features).bias(self.bias)
    }

    /// dY, gathered for dX and dW.
    pub(super) fn row_gather(&self) -> Option<OpSpec> {
        let needed = self.sequence_parallel && self.training;
        needed.then(|| self.op(Op::AllGather, self.out_features, 0, 0))
    }

    /// dY gathered on its way into dX.
    pub(super) fn row_dx(&self, share: usize) -> Option<OpSpec> {
        let needed = self.sequence_parallel && self.training;
        let dx = || {
            self.op(Op::AllGatherGemm, share, self.out_features, self.in_features)
                .layout(Layout::Nn)
        };
        needed.then(dx)
    }

    /// Rows of a rank's part of a batch of `m`, between layers.
    pub(super) fn rows(&self, m: usize, world: usize, rank: usize) -> usize {
        match self.sequence_parallel {
            true => chunk(m, world, rank).len(),
            false => m,
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        for (name, value) in [("in_features", self.in_features), ("out_features", self.out_features)] {
            if value == 0 {
                return Err(Error::bad_argument(name, value, "at least 1"));
            }
        }
        Ok(())
    }
}
