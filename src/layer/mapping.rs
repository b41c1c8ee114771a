//! The borders of the tensor-parallel and the sequence-parallel region, under Megatron's names: what each carries out on the
//! way forward, and its conjugate on the way back. `docs/layers.md` has the table.
//!
//! Where nothing travels the result is a view of the argument. m counts the rows of all ranks together, d the columns.

use super::operands::{check_m, shape, shape_of};
use super::options::{Options, at_least_one};
use super::sends::Sends;
use crate::dtype::DType;
use crate::error::Result;
use crate::group::Rank;
use crate::memory::{Mat, MatMut};
use crate::op::{Op, OpSpec, Operands, Plan, chunk};

mod sequence;
mod tensor;

pub use sequence::{GatherFromSequence, ReduceScatterToSequence, ScatterToSequence};
pub use tensor::{CopyToTensor, GatherFromTensor, ReduceFromTensor, ScatterToTensor};

/// The matrices that a mapping takes; equal on every rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MappingSpec {
    /// Their columns, those of all ranks together.
    pub features: usize,
    /// The most rows, those of all ranks together.
    pub max_m: usize,
    /// Their type.
    pub dtype: DType,
}

impl MappingSpec {
    /// Of `[max_m, features]`.
    pub fn new(features: usize, max_m: usize, dtype: DType) -> MappingSpec {
        MappingSpec { features, max_m, dtype }
    }

    /// The operations of all mappings of such matrices ([`GroupConfig::sized_for`](crate::GroupConfig::sized_for)).
    pub fn operations(&self) -> Vec<OpSpec> {
        let plain = [Op::AllReduce, Op::ReduceScatter, Op::AllGather].map(|op| self.plain(op));
        plain.into_iter().chain([self.columns()]).collect()
    }

    fn plain(&self, op: Op) -> OpSpec {
        Options::new(self.max_m, self.dtype).collective(op, self.features)
    }

    fn columns(&self) -> OpSpec {
        Options::new(self.max_m, self.dtype).columns(self.features)
    }
}

/// How a matrix lies on the ranks.
#[derive(Debug, Clone, Copy)]
enum Held {
    /// `[m, d]` on every rank.
    Whole,
    /// `[m_r, d]`.
    Rows,
    /// `[m, d_r]`.
    Columns,
}

/// One collective between two of these, and the views that need none.
#[derive(Debug)]
struct Border {
    rank: Rank,
    spec: MappingSpec,
    plan: Plan,
}

impl Border {
    fn new(rank: &Rank, spec: &MappingSpec, op: &OpSpec) -> Result<Border> {
        at_least_one(&[("features", spec.features)])?;
        Ok(Border {
            rank: rank.clone(),
            spec: *spec,
            plan: rank.plan(op)?,
        })
    }

    fn sends(&self, m: usize) -> Vec<Sends> {
        vec![Sends::of(&self.plan, m)]
    }

    fn shape(&self, held: Held, m: usize) -> [usize; 2] {
        let own = |size| chunk(size, self.rank.world(), self.rank.rank()).len();
        match held {
            Held::Whole => [m, self.spec.features],
            Held::Rows => [own(m), self.spec.features],
            Held::Columns => [m, own(self.spec.features)],
        }
    }

    /// What travels.
    fn travel(&self, m: usize, from: (&str, Held, Mat<'_>), to: (&str, Held, MatMut<'_>)) -> Result<()> {
        check_m(self.spec.max_m, m)?;
        shape_of(from.0, &from.2, self.shape(from.1, m), m, &self.rank)?;
        let given = (to.2.rows(), to.2.cols());
        shape(to.0, given, self.shape(to.1, m), m, &self.rank)?;
        self.plan.launch(&Operands::plain(m, from.2, to.2))
    }

    /// An all-reduce over what it is given.
    fn sum_in_place(&self, m: usize, name: &str, data: MatMut<'_>) -> Result<()> {
        check_m(self.spec.max_m, m)?;
        shape(
            name,
            (data.rows(), data.cols()),
            self.shape(Held::Whole, m),
            m,
            &self.rank,
        )?;
        self.plan.launch(&Operands::in_place(m, data))
    }

    /// This rank's part of a whole matrix; nothing travels.
    fn view<'a>(&self, m: usize, name: &str, whole: Mat<'a>, held: Held) -> Result<Mat<'a>> {
        check_m(self.spec.max_m, m)?;
        shape_of(name, &whole, self.shape(Held::Whole, m), m, &self.rank)?;
        let own = |size| chunk(size, self.rank.world(), self.rank.rank());
        match held {
            Held::Whole => Ok(whole),
            Held::Rows => whole.part(own(m), 0..self.spec.features),
            Held::Columns => whole.part(0..m, own(self.spec.features)),
        }
    }
}
