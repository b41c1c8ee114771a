//! Activations.

use super::check::Operands;
use super::launch::{Entry, enqueue, walk};
use crate::abi::{self, TwLocal};
use crate::error::Result;
use crate::group::Rank;
use crate::memory::{Mat, MatMut};

const ACTIVATE: Entry = Entry {
    name: "activate",
    shared: 0,
    ctas_per_sm: 2,
};

/// Which activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x Phi(x)` with the normal distribution Phi, exactly (Hendrycks and Gimpel, 2016; `torch.nn.GELU`, not its tanh form).
    Gelu,
    /// `silu(gate) up` with `silu(x) = x / (1 + exp(-x))` (Shazeer, 2020). Gate and up are alternating columns: of x, 2j is the gate
    /// and 2j + 1 the up of column j of y.
    SwiGlu,
}

impl Activation {
    /// Columns of x, where y has `n`.
    pub const fn inputs(self, n: usize) -> usize {
        match self {
            Activation::Gelu => n,
            Activation::SwiGlu => 2 * n,
        }
    }
}

/// `y` = the activation of `x`.
#[derive(Debug)]
pub struct Activate<'a> {
    /// Which.
    pub activation: Activation,
    /// `[m, n]`, of SwiGLU `[m, 2n]`.
    pub x: Mat<'a>,
    /// `[m, n]`; of GELU it may be `x` itself.
    pub y: MatMut<'a>,
}

impl Activate<'_> {
    /// Enqueues it on the rank's stream.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for operands of other shapes or types, that overlap, or lie elsewhere.
    pub fn launch(&self, rank: &Rank) -> Result<()> {
        let [m, n] = [self.y.rows(), self.y.cols()];
        let what = format_args!("an activation to [{m}, {n}]");
        let mut all = Operands::new(rank, &what, "x's", &self.x.raw)?;
        let (row_threads, items) = walk(m, n);
        let (forward, over): (_, &[&str]) = match self.activation {
            Activation::Gelu => (abi::TW_GELU, &["x"]),
            Activation::SwiGlu => (abi::TW_SWIGLU, &[]),
        };
        let mut local = TwLocal {
            what: forward,
            rows: m as u32,
            cols: n as u32,
            row_threads,
            ..TwLocal::default()
        };
        local.mat[abi::TW_ACTIVATE_X as usize] = all.read("x", &self.x, [m, self.activation.inputs(n)])?;
        local.mat[abi::TW_ACTIVATE_Y as usize] = all.write("y", &self.y, [m, n], over)?;
        local.vectors = all.in_vectors(n);
        enqueue(rank, ACTIVATE, self.x.dtype(), items, local)
    }
}

/// The gradient of an [`Activate`]'s input, from that input and the gradient `dy` of its output.
#[derive(Debug)]
pub struct ActivateBackward<'a> {
    /// Which.
    pub activation: Activation,
    /// `[m, n]`, of SwiGLU `[m, 2n]`.
    pub x: Mat<'a>,
    /// `[m, n]`.
    pub dy: Mat<'a>,
    /// As x; may be `x` itself, of GELU also `dy`.
    pub dx: MatMut<'a>,
}

impl ActivateBackward<'_> {
    /// Enqueues it on the rank's stream.
    ///
    /// # Errors
    /// As [`Activate::launch`].
    pub fn launch(&self, rank: &Rank) -> Result<()> {
        let [m, n] = [self.dy.rows(), self.dy.cols()];
        let what = format_args!("an activation's gradient of [{m}, {n}]");
        let mut all = Operands::new(rank, &what, "x's", &self.x.raw)?;
        let inputs = [m, self.activation.inputs(n)];
        let (row_threads, items) = walk(m, n);
        let (backward, over): (_, &[&str]) = match self.activation {
            Activation::Gelu => (abi::TW_GELU_BACKWARD, &["x", "dy"]),
            Activation::SwiGlu => (abi::TW_SWIGLU_BACKWARD, &["x"]),
        };
        let mut local = TwLocal {
            what: backward,
            rows: m as u32,
            cols: n as u32,
            row_threads,
            ..TwLocal::default()
        };
        local.mat[abi::TW_ACTIVATE_X as usize] = all.read("x", &self.x, inputs)?;
        local.mat[abi::TW_ACTIVATE_DY as usize] = all.read("dy", &self.dy, [m, n])?;
        local.mat[abi::TW_ACTIVATE_DX as usize] = all.write("dx", &self.dx, inputs, over)?;
        local.vectors = all.in_vectors(n);
        enqueue(rank, ACTIVATE, self.x.dtype(), items, local)
    }
}
