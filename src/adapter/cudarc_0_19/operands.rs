//! The data of one launch.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceSlice};

use super::element::SliceElement;
use super::matrix::{Matrix, MatrixMut};
#[expect(unused, reason = "for the documentation's links")]
use crate::op::Operands;

/// What a tail adds: [`Residual`](crate::Residual).
#[derive(Debug)]
pub(super) enum SliceResidual<'a, T> {
    Read(Matrix<'a, T>),
    Update(MatrixMut<'a, T>),
}

/// The data of one launch, as [`Operands`] are, of slices. All have one type.
#[derive(Debug)]
pub struct SliceOperands<'a, T> {
    pub(super) m: usize,
    pub(super) x: Option<Matrix<'a, T>>,
    pub(super) weight: Option<Matrix<'a, T>>,
    pub(super) bias: Option<Matrix<'a, T>>,
    pub(super) addend: Option<Matrix<'a, T>>,
    pub(super) residual: Option<SliceResidual<'a, T>>,
    pub(super) gamma: Option<Matrix<'a, T>>,
    pub(super) saved: Option<MatrixMut<'a, T>>,
    /// Also the input, where there is no `x`.
    pub(super) out: MatrixMut<'a, T>,
}

impl<'a, T: SliceElement> SliceOperands<'a, T> {
    /// Of an operation with a GEMM: [`Operands::gemm`].
    pub fn gemm(m: usize, x: Matrix<'a, T>, weight: Matrix<'a, T>, out: MatrixMut<'a, T>) -> Self {
        SliceOperands {
            weight: Some(weight),
            ..SliceOperands::plain(m, x, out)
        }
    }

    /// Of a plain collective: [`Operands::plain`].
    pub fn plain(m: usize, x: Matrix<'a, T>, out: MatrixMut<'a, T>) -> Self {
        SliceOperands {
            x: Some(x),
            ..SliceOperands::in_place(m, out)
        }
    }

    /// Of a plain all-reduce over its own input: [`Operands::in_place`].
    pub fn in_place(m: usize, data: MatrixMut<'a, T>) -> Self {
        SliceOperands {
            m,
            x: None,
            weight: None,
            bias: None,
            addend: None,
            residual: None,
            gamma: None,
            saved: None,
            out: data,
        }
    }

    /// With a bias, \[1, n\].
    pub fn bias(self, bias: Matrix<'a, T>) -> Self {
        SliceOperands {
            bias: Some(bias),
            ..self
        }
    }

    /// With this rank's own partial, \[m, n\].
    pub fn addend(self, addend: Matrix<'a, T>) -> Self {
        SliceOperands {
            addend: Some(addend),
            ..self
        }
    }

    /// With what [`Tail::Residual`](crate::Tail::Residual) adds, of out's shape.
    pub fn residual(self, residual: Matrix<'a, T>) -> Self {
        SliceOperands {
            residual: Some(SliceResidual::Read(residual)),
            ..self
        }
    }

    /// With what [`Tail::RmsNorm`](crate::Tail::RmsNorm) needs: \[m, n\], replaced by its sum with the result, and \[1, n\].
    pub fn tail(self, residual: MatrixMut<'a, T>, gamma: Matrix<'a, T>) -> Self {
        SliceOperands {
            residual: Some(SliceResidual::Update(residual)),
            gamma: Some(gamma),
            ..self
        }
    }

    /// With where an epilogue leaves what it was computed from, \[m, n\]: [`Operands::saved`].
    pub fn saved(self, saved: MatrixMut<'a, T>) -> Self {
        SliceOperands {
            saved: Some(saved),
            ..self
        }
    }

    /// The slices, by name.
    pub(super) fn slices(&self) -> impl Iterator<Item = (&'static str, &Arc<CudaStream>)> {
        let read = |name, mat: &Option<Matrix<'a, T>>| mat.map(|mat| (name, DeviceSlice::stream(mat.slice)));
        [
            read("x", &self.x),
            read("weight", &self.weight),
            read("bias", &self.bias),
            read("addend", &self.addend),
            read("gamma", &self.gamma),
            self.residual.as_ref().map(|residual| ("residual", residual.stream())),
            self.saved.as_ref().map(|mat| ("saved", mat.slice.stream())),
            Some(("out", self.out.slice.stream())),
        ]
        .into_iter()
        .flatten()
    }
}

impl<T: SliceElement> SliceResidual<'_, T> {
    fn stream(&self) -> &Arc<CudaStream> {
        match self {
            SliceResidual::Read(mat) => DeviceSlice::stream(mat.slice),
            SliceResidual::Update(mat) => mat.slice.stream(),
        }
    }
}
