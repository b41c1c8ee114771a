//! What a linear layer is made for.

use std::ops::Range;

use crate::dtype::{DType, Wire};
use crate::error::{Error, Result};
use crate::op::{Epilogue, Op, chunk};
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
    /// Columns of y; with [`Epilogue::SwiGlu`] of the product, of which y has half.
    pub out_features: usize,
    /// The most rows of a batch, those of all ranks together.
    pub max_m: usize,
    /// Type of parameters, activations and gradients.
    pub dtype: DType,
    /// Whether there is a bias.
    pub bias: bool,
    /// Whether what lies between layers is split by rows.
    pub sequence_parallel: bool,
    /// Whether backward passes run, too: a layer for inference plans none and holds no memory for them.
    pub training: bool,
    /// Column-parallel: whether every rank gets the whole y. Not with sequence parallelism, nor with an epilogue.
    pub gather_output: bool,
    /// Row-parallel: whether every rank has the whole x, of which it takes its columns. Not with sequence parallelism.
    pub split_input: bool,
    /// Column-parallel: the activation that follows the product.
    pub epilogue: Epilogue,
    /// Row-parallel: whether a matrix of y's shape is added, in the same kernel.
    pub residual: bool,
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
            gather_output: false,
            split_input: false,
            epilogue: Epilogue::None,
            residual: false,
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

    /// With the whole y on every rank, or its columns.
    pub fn gather_output(self, gather_output: bool) -> LinearSpec {
        LinearSpec { gather_output, ..self }
    }

    /// With the whole x on every rank, or its columns.
    pub fn split_input(self, split_input: bool) -> LinearSpec {
        LinearSpec { split_input, ..self }
    }

    /// With this activation of the product.
    pub fn epilogue(self, epilogue: Epilogue) -> LinearSpec {
        LinearSpec { epilogue, ..self }
    }

    /// With a residual, or without.
    pub fn residual(self, residual: bool) -> LinearSpec {
        LinearSpec { residual, ..self }
    }

    /// With partials in this type.
    pub fn wire(self, wire: Wire) -> LinearSpec {
        LinearSpec { wire, ..self }
    }

    /// On this route.
    pub fn route(self, route: Want) -> LinearSpec {
        LinearSpec { route, ..self }
    }

    /// The part of `out_features` (split by columns; with SwiGLU in whole pairs of gate and up) or `in_features` (by rows)
    /// that `rank` of `world` has.
    pub fn part(&self, split: Split, world: usize, rank: usize) -> Range<usize> {
        match split {
            Split::Column => {
                let of = self.products_each();
                let part = chunk(self.out_features / of, world, rank);
                part.start * of..part.end * of
            }
            Split::Row => chunk(self.in_features, world, rank),
        }
    }

    /// Columns of the product for each of y.
    pub(super) fn products_each(&self) -> usize {
        if self.epilogue == Epilogue::SwiGlu { 2 } else { 1 }
    }

    /// Rows of a rank's part of a batch of `m`, between layers.
    pub(super) fn rows(&self, m: usize, world: usize, rank: usize) -> usize {
        match self.sequence_parallel {
            true => chunk(m, world, rank).len(),
            false => m,
        }
    }

    /// What sums over ranks and leaves it where the next layer wants it.
    pub(super) fn summed_by(&self) -> Op {
        match self.sequence_parallel {
            true => Op::GemmReduceScatter,
            false => Op::GemmAllReduce,
        }
    }

    pub(super) fn check(&self, split: Split) -> Result<()> {
        for (name, value) in [("in_features", self.in_features), ("out_features", self.out_features)] {
            if value == 0 {
                return Err(Error::bad_argument(name, value, "at least 1"));
            }
        }
        let refuse = |name: &str, value: &dyn ToString, expected: &str| {
            Err(Error::bad_argument(name, value.to_string(), expected))
        };
        let epilogue = self.epilogue != Epilogue::None;
        match split {
            Split::Column if self.split_input => {
                refuse("split_input", &true, "false: a column-parallel layer's input is whole")
            }
            Split::Column if self.residual => refuse(
                "residual",
                &true,
                "false: a column-parallel layer sums nothing over ranks",
            ),
            Split::Row if self.gather_output => {
                refuse("gather_output", &true, "false: a row-parallel layer's output is whole")
            }
            Split::Row if epilogue => refuse(
                "epilogue",
                &self.epilogue,
                "none: a row-parallel layer's product is a part of a sum",
            ),
            _ if self.gather_output && self.sequence_parallel => refuse(
                "gather_output",
                &true,
                "false with sequence parallelism, which splits what lies between layers by rows",
            ),
            _ if self.split_input && self.sequence_parallel => refuse(
                "split_input",
                &true,
                "false with sequence parallelism, which splits what lies between layers by rows",
            ),
            _ if self.gather_output && epilogue => refuse(
                "gather_output",
                &true,
                "false with an epilogue: the gradient of the product begins with the own columns of y's",
            ),
            _ if !self.out_features.is_multiple_of(self.products_each()) => refuse(
                "out_features",
                &self.out_features,
                "an even number: SwiGLU takes gates and ups in turn",
            ),
            _ => Ok(()),
        }
    }
}
