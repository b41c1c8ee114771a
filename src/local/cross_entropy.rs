//! Cross-entropy over a vocabulary whose columns may be split among ranks.

use super::check::{Operands, below_2_31};
use super::embedding::{FirstBad, check_vocabulary};
use super::launch::{Entry, enqueue};
use crate::abi::{self, TwLocal};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::group::Rank;
use crate::memory::{Ids, Mat, MatMut};

const CROSS_ENTROPY: Entry = Entry {
    name: "cross_entropy",
    shared: abi::TW_LOSS_SHARED,
    ctas_per_sm: 2,
};

/// What a part of the logits says of every row: their maximum, the sum of `exp(logit - maximum)`, and the target's logit, or 0 where the
/// target is of another part. Of no columns: -infinity, 0, 0.
#[derive(Debug)]
pub struct LogitStats<'a> {
    /// `[m, v_r]`.
    pub logits: Mat<'a>,
    /// `m` of them.
    pub targets: Ids<'a>,
    /// The vocabulary's column that is the first here.
    pub first: i64,
    /// f32 `[m, 3]`.
    pub stats: MatMut<'a>,
}

impl LogitStats<'_> {
    /// Enqueues it on the rank's stream.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for operands of other shapes or types, that overlap, or lie elsewhere.
    pub fn launch(&self, rank: &Rank) -> Result<()> {
        let [m, part] = [self.logits.rows(), self.logits.cols()];
        let what = format_args!("statistics of logits [{m}, {part}]");
        let mut all = Operands::new(rank, &what, "the logits'", &self.logits.raw)?;
        check_vocabulary(self.first, part, i64::MAX)?;
        let mut local = TwLocal {
            what: abi::TW_LOGIT_STATS,
            first: self.first,
            rows: m as u32,
            cols: part as u32,
            ..TwLocal::default()
        };
        let mats = [
            (abi::TW_LOSS_LOGITS, all.read("logits", &self.logits, [m, part])?),
            (abi::TW_LOSS_TARGETS, all.ids("targets", &self.targets.raw, m)?),
            (abi::TW_LOSS_STATS, all.write_f32("stats", &self.stats, [m, 3])?),
        ];
        mats.into_iter().for_each(|(at, mat)| local.mat[at as usize] = mat);
        local.vectors = all.in_vectors(part);
        enqueue(rank, CROSS_ENTROPY, self.logits.dtype(), m, local)
    }
}

/// Every row's loss `-log softmax(logits)[target]`, and the logarithm of the sum of the exponentials of its logits, from the
/// [`LogitStats`] of all parts (`torch.nn.functional.cross_entropy` with `reduction="none"`).
#[derive(Debug)]
pub struct LossFromStats<'a> {
    /// f32 `[world * m, 3]`: rank after rank.
    pub all: Mat<'a>,
    /// Parts.
    pub world: usize,
    /// Rows.
    pub m: usize,
    /// `m` of them.
    pub targets: Ids<'a>,
    /// Columns of the whole vocabulary.
    pub vocabulary: i64,
    /// The target whose rows have no loss: 0. `torch`'s default is -100.
    pub ignore: Option<i64>,
    /// f32 `[m, 1]`; NaN where the target is outside the vocabulary, and not the one to ignore.
    pub loss: MatMut<'a>,
    /// f32 `[m, 1]`, for the backward pass.
    pub lse: MatMut<'a>,
    /// Learns of such a target.
    pub bad: Option<&'a FirstBad>,
}

impl LossFromStats<'_> {
    /// Enqueues it on the rank's stream.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for no parts, and no vocabulary; for operands of other shapes or types, that overlap, or lie
    /// elsewhere.
    pub fn launch(&self, rank: &Rank) -> Result<()> {
        let (m, world) = (self.m, self.world);
        let what = format_args!("losses of {m} rows of {world} parts");
        let mut all = Operands::new(rank, &what, "statistics'", &self.all.raw)?;
        if world == 0 {
            return Err(Error::bad_argument("world", world, "at least one part"));
        }
        if self.vocabulary < 1 {
            return Err(Error::bad_argument(
                "vocabulary",
                self.vocabulary,
                "at least one column",
            ));
        }
        let mut local = TwLocal {
            what: abi::TW_LOSS,
            vocabulary: self.vocabulary,
            rows: below_2_31("m", m)?,
            parts: below_2_31("world", world)?,
            ..ignoring(self.ignore)
        };
        let mats = [
            (
                abi::TW_LOSS_STATS,
                all.read_f32("all", &self.all, [world.saturating_mul(m), 3])?,
            ),
            (abi::TW_LOSS_TARGETS, all.ids("targets", &self.targets.raw, m)?),
            (abi::TW_LOSS_LOSS, all.write_f32("loss", &self.loss, [m, 1])?),
            (abi::TW_LOSS_LSE, all.write_f32("lse", &self.lse, [m, 1])?),
            (abi::TW_LOSS_BAD, FirstBad::of(self.bad, rank)?),
        ];
        mats.into_iter().for_each(|(at, mat)| local.mat[at as usize] = mat);
        let items = m.div_ceil(abi::TW_LOCAL_THREADS as usize);
        enqueue(rank, CROSS_ENTROPY, DType::F32, items, local)
    }
}

/// The gradient of a part's logits, from the log-sum-exps that [`LossFromStats`] left and the gradient of each row's loss:
/// `(softmax(logits) - [target]) dloss`, and 0 in rows whose target is ignored.
#[derive(Debug)]
pub struct LossBackward<'a> {
    /// `[m, v_r]`.
    pub logits: Mat<'a>,
    /// `m` of them.
    pub targets: Ids<'a>,
    /// The vocabulary's column that is the first here.
    pub first: i64,
    /// The target whose rows have no loss.
    pub ignore: Option<i64>,
    /// f32 `[m, 1]`.
    pub lse: Mat<'a>,
    /// f32 `[m, 1]`.
    pub dloss: Mat<'a>,
    /// `[m, v_r]`; may be `logits` itself.
    pub dlogits: MatMut<'a>,
}

impl LossBackward<'_> {
    /// Enqueues it on the rank's stream.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for operands of other shapes or types, that overlap, or lie elsewhere.
    pub fn launch(&self, rank: &Rank) -> Result<()> {
        let [m, part] = [self.logits.rows(), self.logits.cols()];
        let what = format_args!("the gradient of logits [{m}, {part}]");
        let mut all = Operands::new(rank, &what, "the logits'", &self.logits.raw)?;
        check_vocabulary(self.first, part, i64::MAX)?;
        let mut local = TwLocal {
            what: abi::TW_LOSS_BACKWARD,
            first: self.first,
            rows: m as u32,
            cols: part as u32,
            ..ignoring(self.ignore)
        };
        let mats = [
            (abi::TW_LOSS_LOGITS, all.read("logits", &self.logits, [m, part])?),
            (abi::TW_LOSS_TARGETS, all.ids("targets", &self.targets.raw, m)?),
            (abi::TW_LOSS_LSE, all.read_f32("lse", &self.lse, [m, 1])?),
            (abi::TW_LOSS_LOSS, all.read_f32("dloss", &self.dloss, [m, 1])?),
            (
                abi::TW_LOSS_DLOGITS,
                all.write("dlogits", &self.dlogits, [m, part], &["logits"])?,
            ),
        ];
        mats.into_iter().for_each(|(at, mat)| local.mat[at as usize] = mat);
        local.vectors = all.in_vectors(part);
        enqueue(
            rank,
            CROSS_ENTROPY,
            self.logits.dtype(),
            if part == 0 { 0 } else { m },
            local,
        )
    }
}

fn ignoring(target: Option<i64>) -> TwLocal {
    TwLocal {
        ignores: u32::from(target.is_some()),
        ignore: target.unwrap_or(0),
        ..TwLocal::default()
    }
}
