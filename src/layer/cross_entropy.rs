//! Cross-entropy of logits that are split along the vocabulary: three numbers a row are exchanged, never the logits.

use std::ops::Range;

use super::embedding::check_vocabulary;
use super::memory::{Batch, Carver, LayerId, Saved, Workspace};
use super::operands::{check_m, check_mat, check_training};
use super::options::Options;
use super::sends::Sends;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::group::Rank;
use crate::local::{FirstBad, Ids, LogitStats, LossBackward, LossFromStats};
use crate::memory::{Mat, MatMut, RawMat};
use crate::op::{Op, OpSpec, Operands, Plan, chunk};

/// The numbers of a row that a rank tells the others: its largest logit, the sum of `exp(x - largest)`, the target's.
const NUMBERS: usize = 3;

/// `loss[i] = log sum exp(logits[i]) - logits[i][targets[i]]`; equal on every rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct CrossEntropySpec {
    /// Columns of the logits, those of all ranks together.
    pub vocabulary: usize,
    /// Rows with this target have loss and gradient 0.
    pub ignore_index: Option<i64>,
    /// What it has in common with the model's other layers. Logits have all rows of the batch, also with sequence parallelism.
    pub options: Options,
}

impl CrossEntropySpec {
    /// Ignores -100, as `torch.nn.CrossEntropyLoss` does.
    pub fn new(vocabulary: usize, options: Options) -> CrossEntropySpec {
        CrossEntropySpec {
            vocabulary,
            ignore_index: Some(-100),
            options,
        }
    }

    /// With this target ignored, or none.
    pub fn ignore_index(self, ignore_index: Option<i64>) -> CrossEntropySpec {
        CrossEntropySpec { ignore_index, ..self }
    }

    /// The columns of the logits that `rank` of `world` has.
    pub fn part(&self, world: usize, rank: usize) -> Range<usize> {
        chunk(self.vocabulary, world, rank)
    }

    /// The operations of such a layer ([`GroupConfig::sized_for`](crate::GroupConfig::sized_for)).
    pub fn operations(&self, world: usize) -> Vec<OpSpec> {
        vec![self.gather(world)]
    }

    /// All rows of every rank, one rank's below the other's.
    fn gather(&self, world: usize) -> OpSpec {
        let rows = self.options.max_m.saturating_mul(world);
        OpSpec::new(Op::AllGather, NUMBERS, 0, rows, DType::F32)
    }
}

/// The data of a forward pass.
#[derive(Debug)]
pub struct CrossEntropyForward<'a> {
    /// `[m, v_r]`.
    pub logits: Mat<'a>,
    /// `[m]`, on every rank.
    pub targets: Ids<'a>,
    /// `[m, 1]` of f32, the same on every rank.
    pub loss: MatMut<'a>,
}

/// The data of a backward pass.
#[derive(Debug)]
pub struct CrossEntropyBackward<'a> {
    /// The forward pass's.
    pub logits: Mat<'a>,
    /// The forward pass's.
    pub targets: Ids<'a>,
    /// `[m, 1]` of f32, the same on every rank: of a mean over n rows `1 / n` each.
    pub dloss: Mat<'a>,
    /// `[m, v_r]`.
    pub dlogits: MatMut<'a>,
}

/// Per-row cross-entropy of logits `[m, v_r]`, columns `chunk(vocabulary, P, r)` of the whole on rank r.
#[derive(Debug)]
pub struct VocabParallelCrossEntropy {
    rank: Rank,
    spec: CrossEntropySpec,
    part: Range<usize>,
    id: LayerId,
    gather: Plan,
    bad: FirstBad,
}

impl VocabParallelCrossEntropy {
    /// Plans the layer on a rank.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a vocabulary smaller than the group; else as [`Rank::plan`].
    pub fn new(rank: &Rank, spec: &CrossEntropySpec) -> Result<VocabParallelCrossEntropy> {
        check_vocabulary(spec.vocabulary, rank.world())?;
        Ok(VocabParallelCrossEntropy {
            rank: rank.clone(),
            spec: *spec,
            part: spec.part(rank.world(), rank.rank()),
            id: LayerId::new(),
            gather: rank.plan(&spec.gather(rank.world()))?,
            bad: FirstBad::new(rank)?,
        })
    }

    /// What it was made for.
    pub fn spec(&self) -> &CrossEntropySpec {
        &self.spec
    }

    /// Memory for one forward pass: `[m, 1]` of f32.
    ///
    /// # Errors
    /// [`Error::BadArgument`] of a layer for inference; the driver's, where there is not that much.
    pub fn saved(&self) -> Result<Saved> {
        check_training(self.spec.options.training)?;
        let bytes = Carver::count(|carver| carver.take_flat(self.spec.options.max_m, 1, DType::F32).map(drop))?;
        Saved::new(&self.rank, self.id, bytes)
    }

    /// Bytes of a workspace that a forward pass fits in: `[m, 3]` of f32, P + 1 times, and the log sum exp where nothing saves it.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for sizes beyond 64 bits.
    pub fn workspace_bytes(&self) -> Result<usize> {
        Carver::count(|carver| self.scratch(self.spec.options.max_m, carver).map(drop))
    }

    /// A workspace of that size.
    ///
    /// # Errors
    /// The driver's, where there is not that much.
    pub fn workspace(&self) -> Result<Workspace> {
        Workspace::new(&self.rank, self.workspace_bytes()?)
    }

    /// What a forward pass sends from this rank.
    pub fn forward_sends(&self, m: usize) -> Vec<Sends> {
        vec![Sends::of(&self.gather, m.saturating_mul(self.rank.world()))]
    }

    /// Nothing.
    pub fn backward_sends(&self, _: usize) -> Vec<Sends> {
        Vec::new()
    }

    /// Enqueues a forward pass that a backward pass follows. A target outside the vocabulary that is not ignored makes its
    /// loss NaN, and is for [`VocabParallelCrossEntropy::check_targets`] to tell.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for operands of other shapes, and of a layer for inference; else as [`Plan::launch`].
    pub fn forward(&self, pass: CrossEntropyForward<'_>, saved: &mut Saved, workspace: &mut Workspace) -> Result<()> {
        check_training(self.spec.options.training)?;
        let (m, id) = (pass.targets.len(), self.id);
        check_m(self.spec.options.max_m, m)?;
        saved.fill(id, Batch { m, seq: 0 }, |carver| {
            let lse = carver.take_flat(m, 1, DType::F32)?;
            self.run(pass, Some(lse), workspace)
        })
    }

    /// Enqueues a forward pass that saves nothing.
    ///
    /// # Errors
    /// As [`VocabParallelCrossEntropy::forward`].
    pub fn infer(&self, pass: CrossEntropyForward<'_>, workspace: &mut Workspace) -> Result<()> {
        self.run(pass, None, workspace)
    }

    /// This rank's numbers, everybody's, and a log sum exp.
    fn scratch<'a>(&self, m: usize, carver: &mut Carver<'a>) -> Result<[MatMut<'a>; 3]> {
        let all = m.saturating_mul(self.rank.world());
        Ok([
            carver.take_flat(m, NUMBERS, DType::F32)?,
            carver.take_flat(all, NUMBERS, DType::F32)?,
            carver.take_flat(m, 1, DType::F32)?,
        ])
    }

    fn run(&self, pass: CrossEntropyForward<'_>, lse: Option<MatMut<'_>>, workspace: &mut Workspace) -> Result<()> {
        let CrossEntropyForward { logits, targets, loss } = pass;
        let m = targets.len();
        self.check(m, ("logits", &logits.raw), ("loss", &loss.raw))?;
        let (rank, world, ignore) = (&self.rank, self.rank.world(), self.spec.ignore_index);
        let mut carver = workspace.open(self.workspace_bytes()?)?;
        let [mut stats, mut all, unsaved] = self.scratch(m, &mut carver)?;
        let own = LogitStats {
            logits,
            targets,
            first: self.part.start as i64,
            stats: stats.reborrow(),
        };
        own.launch(rank)?;
        self.gather
            .launch(&Operands::plain(m * world, stats.as_mat(), all.reborrow()))?;
        let loss = LossFromStats {
            all: all.as_mat(),
            world,
            m,
            targets,
            vocabulary: self.spec.vocabulary as i64,
            ignore,
            loss,
            lse: lse.unwrap_or(unsaved),
            bad: Some(&self.bad),
        };
        loss.launch(rank)
    }

    /// Enqueues the backward pass; nothing travels.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for operands of other shapes, without its forward pass, and of a layer for inference.
    pub fn backward(&self, pass: CrossEntropyBackward<'_>, saved: &mut Saved) -> Result<()> {
        check_training(self.spec.options.training)?;
        let m = pass.targets.len();
        self.check(m, ("logits", &pass.logits.raw), ("dloss", &pass.dloss.raw))?;
        self.check(m, ("dlogits", &pass.dlogits.raw), ("dloss", &pass.dloss.raw))?;
        saved.consume(self.id, m, |carver, _| {
            let lse = carver.take_flat(m, 1, DType::F32)?;
            let back = LossBackward {
                logits: pass.logits,
                targets: pass.targets,
                first: self.part.start as i64,
                ignore: self.spec.ignore_index,
                lse: lse.as_mat(),
                dloss: pass.dloss,
                dlogits: pass.dlogits,
            };
            back.launch(&self.rank)
        })
    }

    /// Whether all targets so far were within the vocabulary or ignored: waits for the rank's stream. After an error the next call
    /// begins anew.
    ///
    /// # Errors
    /// [`Error::BadArgument`] names the first target that was not, and its row; else as [`Rank::synchronize`].
    pub fn check_targets(&mut self) -> Result<()> {
        self.rank.synchronize()?;
        match self.bad.get()? {
            None => Ok(()),
            Some((position, id)) => {
                self.bad.clear()?;
                let ignored = self.spec.ignore_index.map_or(String::new(), |id| format!(", or {id}"));
                let expected = format!("within the vocabulary, 0..{}{ignored}", self.spec.vocabulary);
                Err(Error::bad_argument(format!("targets[{position}]"), id, expected))
            }
        }
    }

    fn check(&self, m: usize, logits: (&str, &RawMat), row: (&str, &RawMat)) -> Result<()> {
        let options = &self.spec.options;
        check_m(options.max_m, m)?;
        check_mat(logits.0, logits.1, [m, self.part.len()], options.dtype, m, &self.rank)?;
        check_mat(row.0, row.1, [m, 1], DType::F32, m, &self.rank)
    }
}
