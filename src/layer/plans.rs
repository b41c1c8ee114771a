//! The operations of a linear layer.

use super::spec::{LinearSpec, Split};
use crate::op::{Axis, Layout, Op, OpSpec, Tail};

impl LinearSpec {
    /// The operations of such a layer on all ranks: what a heap has to have room for
    /// ([`GroupConfig::sized_for`](crate::GroupConfig::sized_for)).
    pub fn operations(&self, split: Split, world: usize) -> Vec<OpSpec> {
        let of = |rank: usize| {
            let share = self.part(split, world, rank).len();
            let ops = match split {
                Split::Column => [
                    self.column_gather(),
                    self.fused_gather(share),
                    self.column_dx(share),
                    self.output_gather(),
                ],
                Split::Row => [
                    Some(self.row_forward(share)),
                    self.row_gather(),
                    self.row_dx(share),
                    self.dx_gather(),
                ],
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
        self.sequence_parallel
            .then(|| op().bias(self.bias).epilogue(self.epilogue))
    }

    pub(super) fn column_dx(&self, share: usize) -> Option<OpSpec> {
        let dx = || {
            self.op(self.summed_by(), self.in_features, share, self.out_features)
                .layout(Layout::Nn)
        };
        self.training.then(dx)
    }

    /// The ranks' columns of y, side by side.
    pub(super) fn output_gather(&self) -> Option<OpSpec> {
        let gather = || self.op(Op::AllGather, self.out_features, 0, 0).axis(Axis::Columns);
        self.gather_output.then(gather)
    }

    pub(super) fn row_forward(&self, share: usize) -> OpSpec {
        let tail = if self.residual { Tail::Residual } else { Tail::None };
        self.op(self.summed_by(), self.out_features, share, self.in_features)
            .bias(self.bias)
            .tail(tail)
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

    /// The ranks' columns of dX, side by side.
    pub(super) fn dx_gather(&self) -> Option<OpSpec> {
        let gather = || self.op(Op::AllGather, self.in_features, 0, 0).axis(Axis::Columns);
        (self.split_input && self.training).then(gather)
    }
}
