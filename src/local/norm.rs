//! RMSNorm and LayerNorm.

use super::check::{Operands, number};
use super::launch::{Entry, enqueue, rows};
use crate::abi::{self, TwLocal};
use crate::error::{Error, Result};
use crate::group::Rank;
use crate::memory::{Mat, MatMut};

const NORM: Entry = Entry {
    name: "normalise",
    shared: abi::TW_NORM_SHARED,
    ctas_per_sm: 2,
};
/// Columns of a block of `norm_gradients`.
const GRADIENT_COLUMNS: usize = 32;

/// Which norm of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps) * gamma` (Zhang and Sennrich, 2019; `torch.nn.RMSNorm`).
    Rms,
    /// `(x - mean) / sqrt(mean((x - mean)^2) + eps) * gamma + beta` (Ba et al., 2016; `torch.nn.LayerNorm`).
    Layer,
}

/// `y` = the norm of every row of `x`. An RMSNorm has the bits of a [`Tail`](crate::Tail)'s.
#[derive(Debug)]
pub struct Norm<'a> {
    /// Which.
    pub kind: NormKind,
    /// Added to the mean of squares; at least 0.
    pub eps: f32,
    /// `[m, d]`.
    pub x: Mat<'a>,
    /// `[1, d]`.
    pub gamma: Mat<'a>,
    /// `[1, d]`; of a LayerNorm alone.
    pub beta: Option<Mat<'a>>,
    /// `[m, d]`; may be `x` itself.
    pub y: MatMut<'a>,
    /// f32 `[m, 2]`, for the backward pass: the mean (0 of an RMSNorm), and `1 / sqrt(.. + eps)`.
    pub stats: Option<MatMut<'a>>,
}

impl Norm<'_> {
    /// Enqueues it on the rank's stream.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for operands of other shapes or types, that overlap, or lie elsewhere; for a beta of an RMSNorm, and an
    /// eps below 0.
    pub fn launch(&self, rank: &Rank) -> Result<()> {
        let [m, d] = [self.x.rows(), self.x.cols()];
        let what = format_args!("a norm of [{m}, {d}]");
        let value = number(
            "eps",
            self.eps,
            self.eps >= 0.0 && self.eps.is_finite(),
            "a number of at least 0",
        )?;
        no_shift(self.kind, "beta", self.beta.is_some())?;
        let mut all = Operands::new(rank, &what, "x's", &self.x.raw)?;
        let mut local = TwLocal {
            what: abi::TW_NORM_FORWARD,
            ..shape(self.kind, m, d, value)
        };
        let mats = [
            (abi::TW_NORM_X, all.read("x", &self.x, [m, d])?),
            (abi::TW_NORM_GAMMA, all.read("gamma", &self.gamma, [1, d])?),
            (abi::TW_NORM_BETA, all.maybe_read("beta", &self.beta, [1, d])?),
            (abi::TW_NORM_Y, all.write("y", &self.y, [m, d], &["x"])?),
            (abi::TW_NORM_STATS, all.maybe_write_f32("stats", &self.stats, [m, 2])?),
        ];
        mats.into_iter().for_each(|(at, mat)| local.mat[at as usize] = mat);
        local.vectors = all.in_vectors(d);
        enqueue(rank, NORM, self.x.dtype(), if d == 0 { 0 } else { rows(m, d) }, local)
    }
}

/// The gradients of a [`Norm`], from its `x` and `stats` and the gradient `dy` of its `y`. Those that are not asked for are not
/// computed.
#[derive(Debug)]
pub struct NormBackward<'a> {
    /// Which.
    pub kind: NormKind,
    /// `[m, d]`, as forward had it.
    pub x: Mat<'a>,
    /// `[1, d]`.
    pub gamma: Mat<'a>,
    /// f32 `[m, 2]`, which forward left.
    pub stats: Mat<'a>,
    /// `[m, d]`.
    pub dy: Mat<'a>,
    /// `[m, d]`, added to dx in f32, before its one rounding: the gradient that comes by the residual.
    pub add: Option<Mat<'a>>,
    /// `[m, d]`; may be `add` or `dy` itself.
    pub dx: Option<MatMut<'a>>,
    /// `[1, d]`.
    pub dgamma: Option<MatMut<'a>>,
    /// `[1, d]`; of a LayerNorm alone.
    pub dbeta: Option<MatMut<'a>>,
    /// Whether dgamma and dbeta are added to what is there, in f32, before their one rounding.
    pub accumulate: bool,
}

impl NormBackward<'_> {
    /// Enqueues it on the rank's stream: one kernel for dgamma and dbeta, one for dx.
    ///
    /// # Errors
    /// As [`Norm::launch`]; an `add` without a dx.
    pub fn launch(&self, rank: &Rank) -> Result<()> {
        let [m, d] = [self.x.rows(), self.x.cols()];
        let what = format_args!("a norm's gradients of [{m}, {d}]");
        no_shift(self.kind, "dbeta", self.dbeta.is_some())?;
        if self.add.is_some() && self.dx.is_none() {
            return Err(Error::bad_argument(
                "add",
                "given",
                "none without a dx, to which it is added",
            ));
        }
        let mut all = Operands::new(rank, &what, "x's", &self.x.raw)?;
        let mut local = shape(self.kind, m, d, 0);
        local.accumulate = u32::from(self.accumulate);
        let mats = [
            (abi::TW_NORM_X, all.read("x", &self.x, [m, d])?),
            (abi::TW_NORM_GAMMA, all.read("gamma", &self.gamma, [1, d])?),
            (abi::TW_NORM_STATS, all.read_f32("stats", &self.stats, [m, 2])?),
            (abi::TW_NORM_DY, all.read("dy", &self.dy, [m, d])?),
            (abi::TW_NORM_ADD, all.maybe_read("add", &self.add, [m, d])?),
            (
                abi::TW_NORM_DX,
                all.maybe_write_over("dx", &self.dx, [m, d], &["add", "dy"])?,
            ),
            (abi::TW_NORM_DGAMMA, all.maybe_write("dgamma", &self.dgamma, [1, d])?),
            (abi::TW_NORM_DBETA, all.maybe_write("dbeta", &self.dbeta, [1, d])?),
        ];
        mats.into_iter().for_each(|(at, mat)| local.mat[at as usize] = mat);
        local.vectors = all.in_vectors(d);
        // dx may take the place of dy, which the others are made of: they come first.
        if self.dgamma.is_some() || self.dbeta.is_some() {
            local.what = abi::TW_NORM_GRADIENTS;
            enqueue(rank, NORM, self.x.dtype(), d.div_ceil(GRADIENT_COLUMNS), local)?;
        }
        if self.dx.is_some() && d > 0 {
            local.what = abi::TW_NORM_BACKWARD;
            enqueue(rank, NORM, self.x.dtype(), rows(m, d), local)?;
        }
        Ok(())
    }
}

fn shape(kind: NormKind, m: usize, d: usize, value: u32) -> TwLocal {
    TwLocal {
        rows: m as u32,
        cols: d as u32,
        value,
        centred: u32::from(kind == NormKind::Layer),
        ..TwLocal::default()
    }
}

fn no_shift(kind: NormKind, name: &str, given: bool) -> Result<()> {
    match (kind, given) {
        (NormKind::Rms, true) => Err(Error::bad_argument(name, "given", "none: an RMSNorm adds nothing")),
        _ => Ok(()),
    }
}
