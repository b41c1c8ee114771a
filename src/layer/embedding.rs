//! The embedding of tokens, its table split along the vocabulary.

use std::ops::Range;

use super::memory::{Carver, Workspace};
use super::operands::{check_mat, check_training};
use super::options::{Options, Rows, at_least_one};
use super::sends::Sends;
use crate::error::{Error, Result};
use crate::group::Rank;
use crate::local::{EmbeddingBackward as Local, EmbeddingLookup, FirstBad, Ids};
use crate::memory::{Mat, MatMut, RawMat};
use crate::op::{Op, OpSpec, Operands, Plan, chunk};

/// `y[i] = table[ids[i]]`, the table whole; equal on every rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct EmbeddingSpec {
    /// Rows of the table.
    pub vocabulary: usize,
    /// Columns.
    pub hidden: usize,
    /// What it has in common with the model's other layers.
    pub options: Options,
}

impl EmbeddingSpec {
    /// Of a table `[vocabulary, hidden]`.
    pub fn new(vocabulary: usize, hidden: usize, options: Options) -> EmbeddingSpec {
        EmbeddingSpec {
            vocabulary,
            hidden,
            options,
        }
    }

    /// The rows of the table that `rank` of `world` has.
    pub fn part(&self, world: usize, rank: usize) -> Range<usize> {
        chunk(self.vocabulary, world, rank)
    }

    /// The operations of such a layer ([`GroupConfig::sized_for`](crate::GroupConfig::sized_for)).
    pub fn operations(&self) -> Vec<OpSpec> {
        [Some(self.sum()), self.gather()].into_iter().flatten().collect()
    }

    fn sum(&self) -> OpSpec {
        let op = match self.options.sequence_parallel {
            true => Op::ReduceScatter,
            false => Op::AllReduce,
        };
        self.options.collective(op, self.hidden)
    }

    fn gather(&self) -> Option<OpSpec> {
        let needed = self.options.sequence_parallel && self.options.training;
        needed.then(|| self.options.collective(Op::AllGather, self.hidden))
    }
}

/// A vocabulary can be split.
pub(super) fn check_vocabulary(vocabulary: usize, world: usize) -> Result<()> {
    match vocabulary >= world {
        true => Ok(()),
        false => Err(Error::bad_argument(
            "vocabulary",
            vocabulary,
            format!("at least the {world} ranks"),
        )),
    }
}

/// The data of a forward pass.
#[derive(Debug)]
pub struct EmbeddingForward<'a> {
    /// Of all rows of the batch, on every rank.
    pub ids: Ids<'a>,
    /// This rank's rows of the table, `[v_r, d]`.
    pub table: Mat<'a>,
    /// `[rows, d]`.
    pub y: MatMut<'a>,
}

/// The data of a backward pass.
#[derive(Debug)]
pub struct EmbeddingBackward<'a> {
    /// The forward pass's.
    pub ids: Ids<'a>,
    /// `[rows, d]`.
    pub dy: Mat<'a>,
    /// Takes the gradient of this rank's rows of the table, `[v_r, d]`.
    pub dtable: MatMut<'a>,
    /// Whether it is added to what is there.
    pub accumulate: bool,
}

/// Rank r holds rows `chunk(vocabulary, P, r)` of the table. y and dy are `[m, d]` on every rank, or with sequence
/// parallelism `[m_r, d]`; all ranks have all ids.
#[derive(Debug)]
pub struct VocabParallelEmbedding {
    rank: Rank,
    spec: EmbeddingSpec,
    part: Range<usize>,
    sum: Plan,
    gather: Option<Plan>,
    bad: FirstBad,
}

impl VocabParallelEmbedding {
    /// Plans the layer on a rank.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for sizes that are none and a vocabulary smaller than the group; else as [`Rank::plan`].
    pub fn new(rank: &Rank, spec: &EmbeddingSpec) -> Result<VocabParallelEmbedding> {
        at_least_one(&[("hidden", spec.hidden)])?;
        check_vocabulary(spec.vocabulary, rank.world())?;
        let gather = spec.gather();
        Ok(VocabParallelEmbedding {
            rank: rank.clone(),
            spec: *spec,
            part: spec.part(rank.world(), rank.rank()),
            sum: rank.plan(&spec.sum())?,
            gather: gather.map(|op| rank.plan(&op)).transpose()?,
            bad: FirstBad::new(rank)?,
        })
    }

    /// What it was made for.
    pub fn spec(&self) -> &EmbeddingSpec {
        &self.spec
    }

    /// Bytes of a workspace that all passes fit in: with sequence parallelism `[max_m, d]`, else none.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for sizes beyond 64 bits.
    pub fn workspace_bytes(&self) -> Result<usize> {
        let rows = self.spec.options.most_rows(self.rank.world());
        Carver::count(|carver| self.scratch(rows, carver).map(drop))
    }

    /// A workspace of that size.
    ///
    /// # Errors
    /// The driver's, where there is not that much.
    pub fn workspace(&self) -> Result<Workspace> {
        Workspace::new(&self.rank, self.workspace_bytes()?)
    }

    /// What a forward pass sends from this rank; without sequence parallelism where y has no gaps between its rows.
    pub fn forward_sends(&self, m: usize) -> Vec<Sends> {
        vec![Sends::of(&self.sum, m)]
    }

    /// What a backward pass sends from this rank.
    pub fn backward_sends(&self, m: usize) -> Vec<Sends> {
        self.gather.iter().map(|plan| Sends::of(plan, m)).collect()
    }

    /// All rows, with sequence parallelism.
    fn scratch<'a>(&self, rows: Rows, carver: &mut Carver<'a>) -> Result<Option<MatMut<'a>>> {
        let all = || carver.take(rows.all, self.spec.hidden, self.spec.options.dtype);
        self.spec.options.sequence_parallel.then(all).transpose()
    }

    /// Enqueues the forward pass. Ids outside the vocabulary give rows of zeros, and are for
    /// [`VocabParallelEmbedding::check_ids`] to tell.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for operands of other shapes; else as [`Plan::launch`].
    pub fn forward(&self, pass: EmbeddingForward<'_>, workspace: &mut Workspace) -> Result<()> {
        let EmbeddingForward { ids, table, mut y } = pass;
        let (m, rank) = (ids.len(), &self.rank);
        let rows = self.check(m, "y", &y.raw)?;
        check_mat("table", &table.raw, self.table(), self.spec.options.dtype, m, rank)?;
        let mut carver = workspace.open(self.workspace_bytes()?)?;
        let all = self.scratch(rows, &mut carver)?;
        let (first, vocabulary) = (self.part.start as i64, self.spec.vocabulary as i64);
        let lookup = |y: MatMut<'_>| {
            let bad = Some(&self.bad);
            let lookup = EmbeddingLookup {
                ids,
                first,
                vocabulary,
                table,
                y,
                bad,
            };
            lookup.launch(rank)
        };
        match all {
            Some(mut all) => {
                lookup(all.reborrow())?;
                self.sum.launch(&Operands::plain(m, all.as_mat(), y))
            }
            None => {
                lookup(y.reborrow())?;
                self.sum.launch(&Operands::in_place(m, y))
            }
        }
    }

    /// Enqueues the backward pass. Ids outside the vocabulary count for nothing.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for operands of other shapes, and of a layer for inference; else as [`Plan::launch`].
    pub fn backward(&self, pass: EmbeddingBackward<'_>, workspace: &mut Workspace) -> Result<()> {
        let EmbeddingBackward {
            ids,
            dy,
            dtable,
            accumulate,
        } = pass;
        check_training(self.spec.options.training)?;
        let (m, rank) = (ids.len(), &self.rank);
        let rows = self.check(m, "dy", &dy.raw)?;
        check_mat("dtable", &dtable.raw, self.table(), self.spec.options.dtype, m, rank)?;
        let mut carver = workspace.open(self.workspace_bytes()?)?;
        let mut all = self.scratch(rows, &mut carver)?;
        if let (Some(all), Some(gather)) = (&mut all, &self.gather) {
            gather.launch(&Operands::plain(m, dy, all.reborrow()))?;
        }
        let back = Local {
            ids,
            first: self.part.start as i64,
            dy: all.as_ref().map_or(dy, MatMut::as_mat),
            dtable,
            accumulate,
        };
        back.launch(rank)
    }

    /// Whether all ids so far were within the vocabulary: waits for the rank's stream. After an error the next call begins anew.
    ///
    /// # Errors
    /// [`Error::BadArgument`] names the first id that was not, and its position in the batch; else as [`Rank::synchronize`].
    pub fn check_ids(&mut self) -> Result<()> {
        self.rank.synchronize()?;
        match self.bad.get()? {
            None => Ok(()),
            Some((position, id)) => {
                self.bad.clear()?;
                let expected = format!("an id within the vocabulary, 0..{}", self.spec.vocabulary);
                Err(Error::bad_argument(format!("ids[{position}]"), id, expected))
            }
        }
    }

    fn table(&self) -> [usize; 2] {
        [self.part.len(), self.spec.hidden]
    }

    fn check(&self, m: usize, name: &str, stream: &RawMat) -> Result<Rows> {
        let options = &self.spec.options;
        options.check_stream(m, self.spec.hidden, &[(name, Some(stream))], &self.rank)?;
        Ok(options.rows(m, &self.rank))
    }
}
