//! Who has which part of which parameter, and a rank's matrices as the layers take them.

use std::ops::Range;

use tileweave::layer::*;
use tileweave::{MatMut, Result, chunk};

use super::block::{Block, Case, Tensors};
use super::common::Slab;

/// A rank's tensor: which element of which whole one each of its elements is.
pub struct Local {
    pub rows: usize,
    pub cols: usize,
    of: Box<dyn Fn(usize, usize) -> (&'static str, usize, usize)>,
}

/// The slots of a rank's parameters; the second of a pair is the bias.
pub const NORM: usize = 0;
pub const QKV: usize = 2;
pub const OUTPUT: usize = 4;
pub const POST: usize = 6;
pub const FC1: usize = 8;
pub const FC2: usize = 10;
pub const SLOTS: usize = 12;

impl Case {
    /// A rank's parameters, slot by slot.
    pub fn locals(&self, rank: usize) -> Vec<Option<Local>> {
        let d = self.hidden();
        let mut slots: Vec<Option<Local>> = (0..SLOTS).map(|_| None).collect();
        if let Some(spec) = self.attention() {
            let heads = spec.heads_of(self.world, rank).unwrap();
            let of = |heads: Range<usize>| heads.start * spec.head_size..heads.end * spec.head_size;
            let (q, kv) = (of(heads.q), of(heads.kv));
            let (q_rows, rows) = (q.len(), q.len() + 2 * kv.len());
            let (q_first, kv_first, kv_rows) = (q.start, kv.start, kv.len());
            let place = move |i: usize| match i {
                i if i < q_rows => (0, q_first + i),
                i if i < q_rows + kv_rows => (1, kv_first + i - q_rows),
                i => (2, kv_first + i - q_rows - kv_rows),
            };
            slots[QKV] = local(rows, d, move |i, j| {
                let (which, row) = place(i);
                (["q_proj.weight", "k_proj.weight", "v_proj.weight"][which], row, j)
            });
            slots[OUTPUT] = local(d, q_rows, move |i, j| ("o_proj.weight", i, q_first + j));
            if spec.bias {
                slots[QKV + 1] = local(1, rows, move |_, j| {
                    let (which, col) = place(j);
                    (["q_proj.bias", "k_proj.bias", "v_proj.bias"][which], 0, col)
                });
                slots[OUTPUT + 1] = local(1, d, |_, j| ("o_proj.bias", 0, j));
            }
        }
        if let Some(spec) = self.mlp() {
            let part = chunk(spec.intermediate, self.world, rank);
            let (first, rows) = (part.start, part.len());
            if spec.fc1().out_features == spec.intermediate {
                slots[FC1] = local(rows, d, move |i, j| ("fc1.weight", first + i, j));
                slots[FC2] = local(d, rows, move |i, j| ("fc2.weight", i, first + j));
                if spec.bias {
                    slots[FC1 + 1] = local(1, rows, move |_, j| ("fc1.bias", 0, first + j));
                    slots[FC2 + 1] = local(1, d, |_, j| ("fc2.bias", 0, j));
                }
            } else {
                let pair = ["gate_proj.weight", "up_proj.weight"];
                slots[FC1] = local(2 * rows, d, move |i, j| (pair[i % 2], first + i / 2, j));
                slots[FC2] = local(d, rows, move |i, j| ("down_proj.weight", i, first + j));
                if spec.bias {
                    let pair = ["gate_proj.bias", "up_proj.bias"];
                    slots[FC1 + 1] = local(1, 2 * rows, move |_, j| (pair[j % 2], 0, first + j / 2));
                    slots[FC2 + 1] = local(1, d, |_, j| ("down_proj.bias", 0, j));
                }
            }
        }
        if let Block::Transformer(spec) = &self.block {
            slots[NORM] = local(1, d, |_, j| ("input_layernorm.weight", 0, j));
            slots[POST] = local(1, d, |_, j| ("post_attention_layernorm.weight", 0, j));
            if spec.norm.bias {
                slots[NORM + 1] = local(1, d, |_, j| ("input_layernorm.bias", 0, j));
                slots[POST + 1] = local(1, d, |_, j| ("post_attention_layernorm.bias", 0, j));
            }
        }
        slots
    }
}

impl Local {
    /// Its elements, row by row.
    pub fn elements(&self) -> impl Iterator<Item = (&'static str, usize, usize)> {
        let all = (0..self.rows).flat_map(|i| (0..self.cols).map(move |j| (i, j)));
        all.map(|(i, j)| (self.of)(i, j))
    }
}

fn local(
    rows: usize,
    cols: usize,
    of: impl Fn(usize, usize) -> (&'static str, usize, usize) + 'static,
) -> Option<Local> {
    let of = Box::new(of);
    Some(Local { rows, cols, of })
}

pub fn value(tensors: &Tensors, (name, row, col): (&str, usize, usize)) -> f64 {
    let whole = &tensors[name];
    whole.values[row * whole.cols + col]
}

pub fn linear(p: &[Option<Slab>], at: usize) -> Result<LinearParameters<'_>> {
    let mat = |at: usize| p[at].as_ref().map(Slab::mat).transpose();
    Ok(LinearParameters {
        weight: mat(at)?.unwrap(),
        bias: mat(at + 1)?,
    })
}

pub fn norm(p: &[Option<Slab>], at: usize) -> Result<NormParameters<'_>> {
    let LinearParameters { weight, bias } = linear(p, at)?;
    Ok(NormParameters {
        gamma: weight,
        beta: bias,
    })
}

pub fn mlp(p: &[Option<Slab>]) -> Result<MlpParameters<'_>> {
    Ok(MlpParameters {
        fc1: linear(p, FC1)?,
        fc2: linear(p, FC2)?,
    })
}

pub fn attention(p: &[Option<Slab>]) -> Result<AttentionParameters<'_>> {
    Ok(AttentionParameters {
        qkv: linear(p, QKV)?,
        output: linear(p, OUTPUT)?,
    })
}

pub fn transformer(p: &[Option<Slab>]) -> Result<TransformerParameters<'_>> {
    Ok(TransformerParameters {
        input_norm: norm(p, NORM)?,
        attention: attention(p)?,
        post_attention_norm: norm(p, POST)?,
        mlp: mlp(p)?,
    })
}

pub fn mats(slabs: &mut [Option<Slab>]) -> Result<Vec<Option<MatMut<'_>>>> {
    slabs
        .iter_mut()
        .map(|slab| slab.as_mut().map(Slab::mat_mut).transpose())
        .collect()
}

pub fn linear_gradients<'a>(g: &mut [Option<MatMut<'a>>], at: usize) -> LinearGradients<'a> {
    LinearGradients {
        weight: g[at].take(),
        bias: g[at + 1].take(),
    }
}

pub fn norm_gradients<'a>(g: &mut [Option<MatMut<'a>>], at: usize) -> NormGradients<'a> {
    let LinearGradients { weight, bias } = linear_gradients(g, at);
    NormGradients {
        gamma: weight,
        beta: bias,
    }
}

pub fn mlp_gradients<'a>(g: &mut [Option<MatMut<'a>>]) -> MlpGradients<'a> {
    MlpGradients {
        fc1: linear_gradients(g, FC1),
        fc2: linear_gradients(g, FC2),
    }
}

pub fn attention_gradients<'a>(g: &mut [Option<MatMut<'a>>]) -> AttentionGradients<'a> {
    AttentionGradients {
        qkv: linear_gradients(g, QKV),
        output: linear_gradients(g, OUTPUT),
    }
}

pub fn transformer_gradients<'a>(g: &mut [Option<MatMut<'a>>]) -> TransformerGradients<'a> {
    TransformerGradients {
        input_norm: norm_gradients(g, NORM),
        attention: attention_gradients(g),
        post_attention_norm: norm_gradients(g, POST),
        mlp: mlp_gradients(g),
    }
}
