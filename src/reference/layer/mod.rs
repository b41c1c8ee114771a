//! Tensor-parallel layers on one rank, in f64, forward and backward, and how far off a layer on several ranks may be.
//!
//! Worst cases of several operations in a row bound nothing, so a composite layer is judged by an experiment: it is computed twice, once
//! exactly and once with every matrix that the layer stores rounded where it is stored ([`Rounding`]). With E the largest distance between
//! the two in a tensor and u the type's unit roundoff, every element of it may be off by `4 E + 8 u max|y|` (in f32 32 u). Layers of one operation in each direction
//! have the bound of that operation ([`Gemm`](super::Gemm)). Told in `docs/numerics.md`.
//!
//! Tensors go by the names of `torch.nn` and Hugging Face: [`Kind`] lists them. A gradient is `d` and its tensor's name.
//!
//! ```
//! use tileweave::reference::layer::{Given, Kind, Matrix, Setting, expect};
//! use tileweave::{DType, Wire};
//!
//! let mut given = Given::default();
//! given.insert("x", Matrix::new(1, 2, vec![3.0, 4.0]));
//! given.insert("weight", Matrix::new(1, 2, vec![0.5, 0.25]));
//! let setting = Setting { dtype: DType::Bf16, wire: Wire::Output, world: 2, sequence_parallel: false };
//! let expected = expect(&Kind::Row, &given, &setting);
//! assert_eq!(expected["y"].value, [2.5]);
//! ```

mod attention;
mod blocks;
mod linear;
mod noise;
mod rounding;

use std::collections::BTreeMap;

use super::Expected;
use crate::dtype::{DType, Wire};
pub use rounding::{Rounding, Setting};

/// A row-major matrix.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Matrix {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Row by row.
    pub values: Vec<f64>,
}

/// What stands between the two linear layers of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    /// Nothing: `fc1.weight`, `fc2.weight`, and biases where there are some.
    Nothing,
    /// GELU, exact; the same names.
    Gelu,
    /// `silu(gate) up`: `gate_proj.weight`, `up_proj.weight`, `down_proj.weight`.
    SwiGlu,
}

/// The heads of an attention; a head's size follows from q's weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Rows of a sequence; `None`: all rows are one.
    pub seq: Option<usize>,
}

/// A layer, and the tensors that it takes beside `x`, and `dy` for a backward pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// `weight`, `bias` where there is one; split along the output.
    Column,
    /// The same, split along the input.
    Row,
    /// Column, then row.
    Mlp(Between),
    /// `q_proj.weight`, `k_proj.weight`, `v_proj.weight`, `o_proj.weight`, and their biases where there are some: causal, scaled by the
    /// root of the head's size.
    Attention(Heads),
    /// Attention's tensors, an MLP's with GELU where there is `fc1.weight`, else SwiGLU's, and the norms before each, with residuals:
    /// `input_layernorm.weight` and `post_attention_layernorm.weight`, which are LayerNorms where they have a bias, else RMSNorms.
    Transformer {
        /// Of attention.
        heads: Heads,
        /// Of the norms.
        eps: f64,
    },
    /// `weight`, `bias` where there is one; rows are split with sequence parallelism.
    Norm {
        /// LayerNorm, not RMSNorm.
        centred: bool,
        /// Added to the variance.
        eps: f64,
    },
    /// ids, `weight` `[vocabulary, d]`; no `x`.
    Embedding,
    /// A column-parallel `weight` `[vocabulary, d]`, then each token's cross-entropy: `y` `[m, 1]`, in f32 whatever the type. ids are the targets.
    Loss {
        /// Targets whose loss is 0.
        ignore: Option<i64>,
    },
}

/// What a layer is given, by name; and what comes out of it.
#[derive(Debug, Clone, Default)]
pub struct Given {
    tensors: BTreeMap<String, Matrix>,
    /// Of an embedding or a loss.
    pub ids: Vec<i64>,
}

impl Given {
    /// With these ids, and no tensor yet.
    pub fn of_ids(ids: Vec<i64>) -> Given {
        let tensors = BTreeMap::new();
        Given { tensors, ids }
    }

    /// Gives a tensor.
    pub fn insert(&mut self, name: &str, matrix: Matrix) {
        self.tensors.insert(name.into(), matrix);
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&Matrix> {
        self.tensors.get(name)
    }

    /// The tensor; an empty one where there is none.
    fn of(&self, name: &str) -> &Matrix {
        static NONE: Matrix = Matrix {
            rows: 0,
            cols: 0,
            values: Vec::new(),
        };
        self.get(name).unwrap_or(&NONE)
    }

    /// A row of it, where there is one.
    fn row(&self, name: &str) -> Option<&[f64]> {
        self.get(name).map(|matrix| matrix.values.as_slice())
    }
}

/// Results by name: `y`, and where `dy` was given `dx` and the gradients of parameters.
pub type Results = BTreeMap<String, Matrix>;

/// The passes: forward, and backward where `dy` is given. Tensors that are missing count as empty, and shapes are believed.
pub fn passes(kind: &Kind, given: &Given, rounding: &Rounding) -> Results {
    let mut results = Results::new();
    let mut keep = |name: &str, matrix: Matrix| {
        results.insert(name.into(), matrix);
    };
    let (x, dy) = (given.of("x"), given.get("dy"));
    match *kind {
        Kind::Column => linear::column(rounding, given, &mut keep),
        Kind::Row => linear::row(rounding, given, &mut keep),
        Kind::Embedding => linear::embedding(rounding, given, &mut keep),
        Kind::Loss { ignore } => blocks::loss(rounding, given, ignore, &mut keep),
        Kind::Norm { centred, eps } => blocks::norm(rounding, given, centred, eps, &mut keep),
        Kind::Mlp(between) => {
            let (y, kept) = blocks::mlp(rounding, given, between, x, None);
            keep("y", y);
            if let Some(dy) = dy {
                let dx = blocks::mlp_backward(rounding, given, between, &kept, dy, &mut keep);
                keep("dx", dx);
            }
        }
        Kind::Attention(heads) => {
            let (y, kept) = attention::forward(rounding, given, heads, x, None);
            keep("y", y);
            if let Some(dy) = dy {
                let dx = attention::backward(rounding, given, &kept, dy, &mut keep);
                keep("dx", dx);
            }
        }
        Kind::Transformer { heads, eps } => blocks::transformer(rounding, given, heads, eps, &mut keep),
    }
    results
}

/// What is right, and how far off a layer of this setting may be, for every tensor that comes out.
pub fn expect(kind: &Kind, given: &Given, setting: &Setting) -> BTreeMap<String, Expected> {
    match kind {
        Kind::Column | Kind::Row | Kind::Embedding => return linear::bounded(kind, given, setting),
        _ => {}
    }
    let exact = passes(kind, given, &Rounding::Exact);
    // What f32 leaves where terms cancel has a sign by chance.
    let samples = match kind {
        Kind::Attention(_) | Kind::Transformer { .. } | Kind::Norm { .. } => 3,
        _ => 1,
    };
    let rounded: Vec<Results> = (0..samples)
        .map(|sample| passes(kind, given, &Rounding::Stored(*setting, sample)))
        .collect();
    let bounded = exact.into_iter().map(|(name, exact)| {
        let of_loss = name == "y" && matches!(kind, Kind::Loss { .. });
        let dtype = if of_loss { DType::F32 } else { setting.dtype };
        let rounded = rounded.iter().map(|results| &results[&name]);
        let expected = by_experiment(exact, rounded, dtype);
        (name, expected)
    });
    bounded.collect()
}

/// In f32, what sums in another order and functions of a few ulp bring is no smaller than what storing rounds, and the experiment has
/// none of it: more room, in units of roundoff.
const ROOM_IN_F32: f64 = 32.0;

/// `4 E + 8 u max|y|` around what is exact, in f32 `4 E + 32 u max|y|`. Where that is not finite anything is right, and everywhere where
/// the rounded one left its type's range.
fn by_experiment<'a>(exact: Matrix, rounded: impl Iterator<Item = &'a Matrix>, dtype: DType) -> Expected {
    let (mut farthest, mut largest) = (0.0f64, 0.0f64);
    for rounded in rounded {
        let both = exact.values.iter().zip(&rounded.values);
        for (exact, rounded) in both.filter(|(exact, _)| exact.is_finite()) {
            largest = largest.max(exact.abs());
            let distance = (exact - rounded).abs();
            farthest = if distance.is_nan() {
                f64::INFINITY
            } else {
                farthest.max(distance)
            };
        }
    }
    let ulps = if dtype == DType::F32 { ROOM_IN_F32 } else { 8.0 };
    let bound = 4.0 * farthest + ulps * dtype.unit_roundoff() * largest;
    let bound = exact
        .values
        .iter()
        .map(|exact| if exact.is_finite() { bound } else { f64::INFINITY });
    Expected {
        rows: exact.rows,
        cols: exact.cols,
        dtype,
        bound: bound.collect(),
        value: exact.values,
    }
}

impl Matrix {
    /// Of these values.
    pub fn new(rows: usize, cols: usize, values: Vec<f64>) -> Matrix {
        Matrix { rows, cols, values }
    }

    /// Turned round.
    fn turned(&self) -> Matrix {
        let column = |col: usize| (0..self.rows).map(move |row| self.values[row * self.cols + col]);
        Matrix::new(self.cols, self.rows, (0..self.cols).flat_map(column).collect())
    }

    /// These columns.
    fn columns(&self, columns: std::ops::Range<usize>) -> Matrix {
        let row = |row: usize| &self.values[row * self.cols + columns.start..row * self.cols + columns.end];
        let values = (0..self.rows).flat_map(row).copied().collect();
        Matrix::new(self.rows, columns.len(), values)
    }

    /// These rows.
    fn some_rows(&self, rows: std::ops::Range<usize>) -> Matrix {
        let values = self.values[rows.start * self.cols..rows.end * self.cols].to_vec();
        Matrix::new(rows.len(), self.cols, values)
    }

    /// One below the other.
    fn stacked(parts: &[Matrix]) -> Matrix {
        let values = parts.iter().flat_map(|part| &part.values).copied().collect();
        let cols = parts.first().map_or(0, |part| part.cols);
        Matrix::new(parts.iter().map(|part| part.rows).sum(), cols, values)
    }

    /// One beside the other.
    fn beside(parts: &[Matrix]) -> Matrix {
        let turned: Vec<Matrix> = parts.iter().map(Matrix::turned).collect();
        Matrix::stacked(&turned).turned()
    }
}

#[cfg(test)]
mod tests;
