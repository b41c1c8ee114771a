//! What the layers of a model have in common.

use super::operands::{check_m, check_mat};
use super::spec::LinearSpec;
use crate::dtype::{DType, Wire};
use crate::error::{Error, Result};
use crate::group::Rank;
use crate::memory::RawMat;
use crate::op::{Axis, Op, OpSpec, chunk};
use crate::route::Want;

/// What the layers of a model have in common; equal on every rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Options {
    /// The most rows of a batch, those of all ranks together.
    pub max_m: usize,
    /// Type of parameters, activations and gradients.
    pub dtype: DType,
    /// Whether what lies between layers is split by rows.
    pub sequence_parallel: bool,
    /// Whether backward passes run, too: a layer for inference plans none and holds no memory for them.
    pub training: bool,
    /// Type in which the partials of GEMMs travel.
    pub wire: Wire,
    /// The path asked for of operations with a GEMM.
    pub route: Want,
}

impl Options {
    /// For training, without sequence parallelism, partials in `dtype`, the crate choosing the routes.
    pub fn new(max_m: usize, dtype: DType) -> Options {
        Options {
            max_m,
            dtype,
            sequence_parallel: false,
            training: true,
            wire: Wire::default(),
            route: Want::Auto,
        }
    }

    /// With what lies between layers split by rows, or not.
    pub fn sequence_parallel(self, sequence_parallel: bool) -> Options {
        Options {
            sequence_parallel,
            ..self
        }
    }

    /// With backward passes, or without.
    pub fn training(self, training: bool) -> Options {
        Options { training, ..self }
    }

    /// With partials in this type.
    pub fn wire(self, wire: Wire) -> Options {
        Options { wire, ..self }
    }

    /// On this route.
    pub fn route(self, route: Want) -> Options {
        Options { route, ..self }
    }

    /// A linear layer of such a model.
    pub fn linear(&self, in_features: usize, out_features: usize) -> LinearSpec {
        LinearSpec::new(in_features, out_features, self.max_m, self.dtype)
            .sequence_parallel(self.sequence_parallel)
            .training(self.training)
            .wire(self.wire)
            .route(self.route)
    }

    /// A plain collective of `[max_m, cols]`.
    pub(super) fn collective(&self, op: Op, cols: usize) -> OpSpec {
        OpSpec::new(op, cols, 0, self.max_m, self.dtype)
    }

    /// A gather of matrices side by side, together `[max_m, cols]`.
    pub(super) fn columns(&self, cols: usize) -> OpSpec {
        self.collective(Op::AllGather, cols).axis(Axis::Columns)
    }

    /// One all-reduce of so many elements; `None` where there are none.
    pub(super) fn sum_of(&self, elements: usize) -> Option<OpSpec> {
        (elements > 0).then(|| OpSpec::new(Op::AllReduce, elements, 0, 1, self.dtype))
    }

    /// The rows of a batch on a rank.
    pub(super) fn rows(&self, m: usize, rank: &Rank) -> Rows {
        let own = match self.sequence_parallel {
            true => chunk(m, rank.world(), rank.rank()).len(),
            false => m,
        };
        Rows { all: m, own }
    }

    /// Matrices of what lies between layers, `[rows, cols]`, of a batch that fits; everything that can be wrong with them is
    /// found before anything is enqueued.
    pub(super) fn check_stream(&self, m: usize, cols: usize, mats: &[NamedMat<'_>], rank: &Rank) -> Result<()> {
        check_m(self.max_m, m)?;
        let wanted = [self.rows(m, rank).own, cols];
        mats.iter().try_for_each(|(name, mat)| match mat {
            Some(mat) => check_mat(name, mat, wanted, self.dtype, m, rank),
            None => Ok(()),
        })
    }

    /// At least the rows of every batch on every rank. (A last rank may have more of a smaller batch.)
    pub(super) fn most_rows(&self, world: usize) -> Rows {
        let own = match self.sequence_parallel {
            true => self.max_m.div_ceil(world),
            false => self.max_m,
        };
        Rows { all: self.max_m, own }
    }
}

/// A matrix that may be missing, and what it is called in front of a person.
pub(super) type NamedMat<'a> = (&'a str, Option<&'a RawMat>);

/// Rows of a batch: all of them, and those that a rank has between layers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    pub all: usize,
    pub own: usize,
}

/// Sizes that must not be 0.
pub(super) fn at_least_one(sizes: &[(&str, usize)]) -> Result<()> {
    match sizes.iter().find(|(_, size)| *size == 0) {
        Some((name, size)) => Err(Error::bad_argument(*name, size, "at least 1")),
        None => Ok(()),
    }
}
