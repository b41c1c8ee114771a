//! Parameters of layers on one rank, and their gradients: the caller's matrices. Shapes: `docs/layers.md`.

use super::operands::{check_mat, check_optional};
use crate::dtype::DType;
use crate::error::Result;
use crate::group::Rank;
use crate::memory::{Mat, MatMut};

/// Of a linear layer: this rank's part.
#[derive(Debug, Clone, Copy)]
pub struct LinearParameters<'a> {
    /// Column-parallel `[out_r, in]`, row-parallel `[out, in_r]`.
    pub weight: Mat<'a>,
    /// Column-parallel `[1, out_r]`, row-parallel `[1, out]`; there exactly if the layer has one.
    pub bias: Option<Mat<'a>>,
}

/// Takes the gradients of [`LinearParameters`], of the same shapes. Of what is missing none is computed.
#[derive(Debug, Default)]
pub struct LinearGradients<'a> {
    /// That of the weight.
    pub weight: Option<MatMut<'a>>,
    /// That of the bias.
    pub bias: Option<MatMut<'a>>,
}

/// What the parameters of a linear layer on a rank look like.
pub(super) struct LinearShape<'a> {
    /// What they are called in front of a person: `fc1`.
    pub name: &'a str,
    pub weight: [usize; 2],
    pub bias: bool,
    pub dtype: DType,
}

impl LinearShape<'_> {
    pub fn check(&self, given: &LinearParameters<'_>, m: usize, rank: &Rank) -> Result<()> {
        let (weight, bias) = (format!("{}.weight", self.name), format!("{}.bias", self.name));
        check_mat(&weight, &given.weight.raw, self.weight, self.dtype, m, rank)?;
        check_optional(&bias, given.bias.is_some(), self.bias)?;
        let wanted = [1, self.weight[0]];
        given
            .bias
            .as_ref()
            .map_or(Ok(()), |mat| check_mat(&bias, &mat.raw, wanted, self.dtype, m, rank))
    }

    pub fn check_gradients(&self, given: &LinearGradients<'_>, m: usize, rank: &Rank) -> Result<()> {
        let name = |of: &str| format!("the gradient of {}.{of}", self.name);
        if let Some(mat) = &given.weight {
            check_mat(&name("weight"), &mat.raw, self.weight, self.dtype, m, rank)?;
        }
        let Some(mat) = &given.bias else { return Ok(()) };
        if !self.bias {
            return check_optional(&name("bias"), true, false);
        }
        check_mat(&name("bias"), &mat.raw, [1, self.weight[0]], self.dtype, m, rank)
    }
}

/// Of a norm; all ranks hold it alike.
#[derive(Debug, Clone, Copy)]
pub struct NormParameters<'a> {
    /// `[1, d]`.
    pub gamma: Mat<'a>,
    /// `[1, d]`, of a LayerNorm if it has one.
    pub beta: Option<Mat<'a>>,
}

/// Takes the gradients of [`NormParameters`], of the same shapes. Of what is missing none is computed.
#[derive(Debug, Default)]
pub struct NormGradients<'a> {
    /// That of gamma.
    pub gamma: Option<MatMut<'a>>,
    /// That of beta.
    pub beta: Option<MatMut<'a>>,
}

/// Of a [`ParallelMlp`](super::ParallelMlp).
#[derive(Debug, Clone, Copy)]
pub struct MlpParameters<'a> {
    /// Column-parallel, `[f_r, d]`; with SwiGLU `[2 f_r, d]`, gate and up in turn.
    pub fc1: LinearParameters<'a>,
    /// Row-parallel, `[d, f_r]`.
    pub fc2: LinearParameters<'a>,
}

/// Takes the gradients of [`MlpParameters`].
#[derive(Debug, Default)]
pub struct MlpGradients<'a> {
    /// Those of the first layer.
    pub fc1: LinearGradients<'a>,
    /// Those of the second.
    pub fc2: LinearGradients<'a>,
}

/// Of a [`ParallelAttention`](super::ParallelAttention).
#[derive(Debug, Clone, Copy)]
pub struct AttentionParameters<'a> {
    /// Column-parallel, `[(H_r + 2 G_r) s, d]`: the rank's q heads, its k heads, its v heads.
    pub qkv: LinearParameters<'a>,
    /// Row-parallel, `[d, H_r s]`.
    pub output: LinearParameters<'a>,
}

/// Takes the gradients of [`AttentionParameters`].
#[derive(Debug, Default)]
pub struct AttentionGradients<'a> {
    /// Those of QKV.
    pub qkv: LinearGradients<'a>,
    /// Those of the output projection.
    pub output: LinearGradients<'a>,
}

/// Of a [`TransformerLayer`](super::TransformerLayer).
#[derive(Debug, Clone, Copy)]
pub struct TransformerParameters<'a> {
    /// In front of attention.
    pub input_norm: NormParameters<'a>,
    /// Attention.
    pub attention: AttentionParameters<'a>,
    /// Between attention and MLP.
    pub post_attention_norm: NormParameters<'a>,
    /// The MLP.
    pub mlp: MlpParameters<'a>,
}

/// Takes the gradients of [`TransformerParameters`].
#[derive(Debug, Default)]
pub struct TransformerGradients<'a> {
    /// Those of the first norm.
    pub input_norm: NormGradients<'a>,
    /// Those of attention.
    pub attention: AttentionGradients<'a>,
    /// Those of the second norm.
    pub post_attention_norm: NormGradients<'a>,
    /// Those of the MLP.
    pub mlp: MlpGradients<'a>,
}
