//! The data of a pass, and what both kinds of layer do with it on a rank alone.

use super::spec::LinearSpec;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::group::Rank;
use crate::memory::{Buffer, Mat, MatMut, RawMat};
use crate::op::{Gemm, Layout};
use crate::reference::encode;

/// The data of a forward pass on one rank. Shapes: `docs/layers.md`.
#[derive(Debug)]
pub struct Forward<'a> {
    /// Rows of the batch, those of all ranks together.
    pub m: usize,
    /// The input.
    pub x: Mat<'a>,
    /// This rank's part of W.
    pub weight: Mat<'a>,
    /// `[1, out]`, or this rank's part of it. There exactly if the layer has one.
    pub bias: Option<Mat<'a>>,
    /// Column-parallel with sequence parallelism, before a backward pass: takes the gathered x `[m, in]`, which that pass is
    /// given as its x. Else none.
    pub gathered: Option<MatMut<'a>>,
    /// Column-parallel with an epilogue, before a backward pass: takes the product `[m, out_r]`, from which
    /// [`local::ActivateBackward`](crate::local::ActivateBackward) makes that pass's dy. Else none.
    pub saved: Option<MatMut<'a>>,
    /// Row-parallel with a residual: what is added, of y's shape. Else none.
    pub residual: Option<Mat<'a>>,
    /// The output.
    pub y: MatMut<'a>,
}

impl<'a> Forward<'a> {
    /// Without what is optional.
    pub fn new(m: usize, x: Mat<'a>, weight: Mat<'a>, y: MatMut<'a>) -> Forward<'a> {
        Forward {
            m,
            x,
            weight,
            bias: None,
            gathered: None,
            saved: None,
            residual: None,
            y,
        }
    }
}

/// The data of a backward pass on one rank. Shapes: `docs/layers.md`. Every rank asks for the same gradients.
#[derive(Debug)]
pub struct Backward<'a> {
    /// Rows of the batch, those of all ranks together.
    pub m: usize,
    /// The gradient of the output.
    pub dy: Mat<'a>,
    /// The input of the forward pass, or what it left in `gathered`. Needed for `dweight` alone.
    pub x: Option<Mat<'a>>,
    /// This rank's part of W. Needed for `dx` alone.
    pub weight: Option<Mat<'a>>,
    /// Takes the gradient of the input, if it is wanted.
    pub dx: Option<MatMut<'a>>,
    /// Takes that of this rank's part of W, if it is wanted.
    pub dweight: Option<MatMut<'a>>,
    /// Takes that of the bias, or of this rank's part of it, if it is wanted.
    pub dbias: Option<MatMut<'a>>,
    /// Whether the gradients of parameters are added to what is there.
    pub accumulate: bool,
}

impl<'a> Backward<'a> {
    /// With nothing asked for yet.
    pub fn new(m: usize, dy: Mat<'a>) -> Backward<'a> {
        Backward {
            m,
            dy,
            x: None,
            weight: None,
            dx: None,
            dweight: None,
            dbias: None,
            accumulate: false,
        }
    }

    /// The gradients that are asked for have these shapes.
    pub(super) fn check(&self, dx: [usize; 2], dweight: [usize; 2], rank: &Rank) -> Result<()> {
        let taken = |name: &str, mat: &Option<MatMut<'_>>, wanted: [usize; 2]| match mat {
            Some(mat) => shape(name, (mat.rows(), mat.cols()), wanted, self.m, rank),
            None => Ok(()),
        };
        taken("dx", &self.dx, dx)?;
        taken("dweight", &self.dweight, dweight)?;
        taken("dbias", &self.dbias, [1, dweight[0]])
    }
}

/// A matrix of the caller's has the shape that the pass needs.
pub(super) fn shape(name: &str, given: (usize, usize), wanted: [usize; 2], m: usize, rank: &Rank) -> Result<()> {
    if given == wanted.into() {
        return Ok(());
    }
    let (value, [rows, cols]) = (format!("[{}, {}]", given.0, given.1), wanted);
    let (rank, world) = (rank.rank(), rank.world());
    let expected = format!("[{rows}, {cols}] at M = {m} on rank {rank} of {world}");
    Err(Error::bad_argument(name, value, expected))
}

pub(super) fn shape_of(name: &str, mat: &Mat<'_>, wanted: [usize; 2], m: usize, rank: &Rank) -> Result<()> {
    shape(name, (mat.rows(), mat.cols()), wanted, m, rank)
}

/// A matrix of a composite layer's: everything that can be wrong with it is found before anything is enqueued.
pub(super) fn check_mat(
    name: &str,
    mat: &RawMat,
    wanted: [usize; 2],
    dtype: DType,
    m: usize,
    rank: &Rank,
) -> Result<()> {
    shape(name, (mat.rows, mat.cols), wanted, m, rank)?;
    if mat.dtype != dtype {
        return Err(Error::bad_argument(
            name,
            mat.dtype,
            format!("{dtype}, as the layer was made"),
        ));
    }
    match mat.owner {
        Some(owner) if owner != rank.identity() => {
            let value = format!("a buffer of rank {} of group {}", owner.1, owner.0);
            let expected = format!(
                "one of this layer's rank {} of group {}",
                rank.rank(),
                rank.identity().0
            );
            Err(Error::bad_argument(name, value, expected))
        }
        _ => Ok(()),
    }
}

/// An operand without which something that was asked for cannot be.
pub(super) fn needed<T: Copy>(name: &str, given: Option<T>, wanted_by: &str) -> Result<T> {
    given.ok_or_else(|| Error::bad_argument(name, "missing", format!("a matrix: {wanted_by} needs it")))
}

/// The batch fits the layer.
pub(super) fn check_m(max_m: usize, m: usize) -> Result<()> {
    if m > max_m {
        let expected = format!("at most the layer's max_m, {max_m}");
        return Err(Error::bad_argument("m", m, expected));
    }
    Ok(())
}

/// A layer for inference has no backward pass.
pub(super) fn check_training(training: bool) -> Result<()> {
    if !training {
        let expected = "a layer made with training(true)";
        return Err(Error::bad_argument(
            "the backward pass",
            "of a layer for inference",
            expected,
        ));
    }
    Ok(())
}

/// An operand that is there exactly if the layer was made for it.
pub(super) fn check_optional(name: &str, given: bool, made: bool) -> Result<()> {
    if given != made {
        let value = if given { "given" } else { "missing" };
        let expected = format!("as the layer was made, with {name} = {made}");
        return Err(Error::bad_argument(name, value, expected));
    }
    Ok(())
}

/// An operand that a layer of this kind never takes.
pub(super) fn check_none(name: &str, given: bool, why: &str) -> Result<()> {
    match given {
        true => Err(Error::bad_argument(name, "given", format!("none: {why}"))),
        false => Ok(()),
    }
}

/// The gradients of parameters: own GEMMs over all rows of the batch.
#[derive(Debug)]
pub(super) struct Gradients {
    /// A row of ones, as long as a batch can be: sums over rows are products with it.
    ones: Option<Buffer>,
    dtype: DType,
}

impl Gradients {
    pub fn new(rank: &Rank, spec: &LinearSpec) -> Result<Gradients> {
        let wanted = spec.training && spec.bias;
        let ones = wanted.then(|| {
            let mut ones = rank.alloc(spec.max_m.max(1) * spec.dtype.size())?;
            ones.upload(&encode(spec.dtype, &vec![1.0; spec.max_m.max(1)]))?;
            Ok(ones)
        });
        Ok(Gradients {
            ones: ones.transpose()?,
            dtype: spec.dtype,
        })
    }

    /// dW = dY^T X, of all rows.
    pub fn weight(&self, rank: &Rank, dy: Mat<'_>, x: Mat<'_>, dweight: MatMut<'_>, accumulate: bool) -> Result<()> {
        rank.gemm(&Gemm::new(Layout::Tn, dy, x, dweight).accumulate(accumulate))
    }

    /// db = the sum of dY's rows.
    pub fn bias(&self, rank: &Rank, dy: Mat<'_>, dbias: MatMut<'_>, accumulate: bool) -> Result<()> {
        let ones = self.ones.as_ref().ok_or_else(|| {
            let expected = "none: the layer was made without a bias";
            Error::bad_argument("dbias", "given", expected)
        })?;
        let ones = ones.mat(1, dy.rows(), self.dtype)?;
        rank.gemm(&Gemm::new(Layout::Nn, ones, dy, dbias).accumulate(accumulate))
    }
}
