//! The data of one launch.

use std::marker::PhantomData;

use crate::memory::{Mat, MatMut, RawMat};

/// Where the result goes.
#[derive(Debug)]
pub enum Out<'a> {
    /// Into this matrix, which shares no byte with an input.
    To(MatMut<'a>),
    /// Over the input, whose elements it names: plain all-reduce only. See [`Operands::in_place`].
    InPlace(MatMut<'a>),
}

impl Out<'_> {
    pub(crate) fn raw(&self) -> &RawMat {
        match self {
            Out::To(mat) | Out::InPlace(mat) => &mat.raw,
        }
    }
}

/// What a tail adds.
#[derive(Debug)]
pub enum Residual<'a> {
    /// Of [`Tail::Residual`](crate::Tail::Residual): read, and left as it is.
    Read(Mat<'a>),
    /// Of [`Tail::RmsNorm`](crate::Tail::RmsNorm): replaced by the sum with it.
    Update(MatMut<'a>),
}

impl Residual<'_> {
    pub(crate) fn raw(&self) -> &RawMat {
        match self {
            Residual::Read(mat) => &mat.raw,
            Residual::Update(mat) => &mat.raw,
        }
    }
}

/// The data of one launch on one rank. `M` counts global rows; a rank's part of M is [`chunk`](crate::chunk)`(m, world,
/// rank)`, of `m_r` rows, and likewise of n; n and k are the spec's.
///
/// | operation | x | weight | addend | out |
/// |---|---|---|---|---|
/// | gemm-reduce-scatter | \[m, k\] | \[n, k\] | \[m, n\] | \[m_r, n\] |
/// | gemm-all-reduce | \[m, k\] | \[n, k\] | \[m, n\] | \[m, n\] |
/// | all-gather-gemm | \[m_r, k\] | \[n, k\] | none | \[m, n\], with SwiGLU \[m, n / 2\] |
/// | reduce-scatter | \[m, n\] | none | none | \[m_r, n\] |
/// | all-reduce | \[m, n\] | none | none | \[m, n\] |
/// | all-gather | \[m_r, n\] | none | none | \[m, n\] |
/// | all-gather of columns ([`Axis`](crate::Axis)) | \[m, n_r\] | none | none | \[m, n\] |
///
/// The weight is \[k, n\] where the spec's [`layout`](crate::OpSpec::layout) is NN. The addend is optional, the bias \[1, n\]
/// is there where the spec says so. All have the spec's type, and any leading dimension from the number of columns on;
/// addresses are aligned to the type.
#[derive(Debug)]
pub struct Operands<'a> {
    /// Global rows of this launch, at most the spec's `max_m`.
    pub m: usize,
    /// The input.
    pub x: Mat<'a>,
    /// The weight, as `torch.nn.Linear` has it.
    pub weight: Option<Mat<'a>>,
    /// Added to the sum, once.
    pub bias: Option<Mat<'a>>,
    /// This rank's own partial, added to its product before that is rounded to the wire.
    pub addend: Option<Mat<'a>>,
    /// Of a spec with a tail, of out's shape: added to the sum.
    pub residual: Option<Residual<'a>>,
    /// Of a spec whose tail normalises, \[1, n\]: what columns are multiplied with.
    pub gamma: Option<Mat<'a>>,
    /// Of a spec with an epilogue, if it is wanted, \[m, n\]: where the product goes as it is before that.
    pub saved: Option<MatMut<'a>>,
    /// Where the result goes. It shares no byte with the residual either.
    pub out: Out<'a>,
}

impl<'a> Operands<'a> {
    /// Of an operation with a GEMM.
    pub fn gemm(m: usize, x: Mat<'a>, weight: Mat<'a>, out: MatMut<'a>) -> Operands<'a> {
        Operands {
            m,
            x,
            weight: Some(weight),
            bias: None,
            addend: None,
            residual: None,
            gamma: None,
            saved: None,
            out: Out::To(out),
        }
    }

    /// Of a plain collective.
    pub fn plain(m: usize, x: Mat<'a>, out: MatMut<'a>) -> Operands<'a> {
        Operands {
            m,
            x,
            weight: None,
            bias: None,
            addend: None,
            residual: None,
            gamma: None,
            saved: None,
            out: Out::To(out),
        }
    }

    /// Of a plain all-reduce over its own input.
    pub fn in_place(m: usize, data: MatMut<'a>) -> Operands<'a> {
        // The exclusive borrow lives on in `out`; the reading view names the same elements and goes no further than the launch.
        let x = Mat {
            raw: data.raw,
            memory: PhantomData,
        };
        Operands {
            m,
            x,
            weight: None,
            bias: None,
            addend: None,
            residual: None,
            gamma: None,
            saved: None,
            out: Out::InPlace(data),
        }
    }

    /// With a bias.
    pub fn bias(self, bias: Mat<'a>) -> Operands<'a> {
        Operands {
            bias: Some(bias),
            ..self
        }
    }

    /// With this rank's own partial.
    pub fn addend(self, addend: Mat<'a>) -> Operands<'a> {
        Operands {
            addend: Some(addend),
            ..self
        }
    }

    /// With the product as it is before the epilogue, rounded, stored here.
    pub fn saved(self, saved: MatMut<'a>) -> Operands<'a> {
        Operands {
            saved: Some(saved),
            ..self
        }
    }

    /// With what [`Tail::Residual`](crate::Tail::Residual) adds.
    pub fn residual(self, residual: Mat<'a>) -> Operands<'a> {
        Operands {
            residual: Some(Residual::Read(residual)),
            ..self
        }
    }

    /// With what [`Tail::RmsNorm`](crate::Tail::RmsNorm) needs.
    pub fn tail(self, residual: MatMut<'a>, gamma: Mat<'a>) -> Operands<'a> {
        Operands {
            residual: Some(Residual::Update(residual)),
            gamma: Some(gamma),
            ..self
        }
    }
}
