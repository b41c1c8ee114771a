//! Where a layer rounds.

use std::num::NonZero;
use std::ops::Range;

use super::super::{chunk, decode, encode};
use super::{DType, Matrix, Wire};

/// Products below which a thread costs more than it saves.
const PARALLEL: usize = 1 << 20;

/// How the passes are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// In f64, on one rank.
    Exact,
    /// As layers do, wherever they store a matrix. The number tells samples of what f32 leaves from each other.
    Stored(Setting, u64),
}

/// What a layer's roundings depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Type of parameters, activations and gradients.
    pub dtype: DType,
    /// Type of partials.
    pub wire: Wire,
    /// Ranks, each with its own partials.
    pub world: usize,
    /// Whether gradients of norms are the sum of the ranks' own.
    pub sequence_parallel: bool,
}

impl Rounding {
    /// Which sample it is, where anything is rounded.
    pub(super) fn sample(&self) -> Option<u64> {
        match self {
            Rounding::Exact => None,
            Rounding::Stored(_, sample) => Some(*sample),
        }
    }

    /// Ranks with partials of their own.
    pub(super) fn world(&self) -> usize {
        match self {
            Rounding::Exact => 1,
            Rounding::Stored(setting, _) => setting.world,
        }
    }

    /// Ranks with rows of their own.
    pub(super) fn shards(&self) -> usize {
        match self {
            Rounding::Stored(setting, _) if setting.sequence_parallel => setting.world,
            _ => 1,
        }
    }

    /// Each rank's part.
    pub(super) fn split(&self, size: usize) -> Vec<Range<usize>> {
        let world = self.world();
        (0..world).map(|rank| chunk(size, world, rank)).collect()
    }

    fn round(to: DType, values: &[f64]) -> Vec<f64> {
        decode(to, &encode(to, values))
    }

    /// A matrix of the layer's type.
    pub(super) fn store(&self, matrix: Matrix) -> Matrix {
        let values = self.stored(matrix.values);
        Matrix { values, ..matrix }
    }

    /// Its values.
    pub(super) fn stored(&self, values: Vec<f64>) -> Vec<f64> {
        match self {
            Rounding::Exact => values,
            Rounding::Stored(setting, _) => Rounding::round(setting.dtype, &values),
        }
    }

    /// What is always kept in f32: statistics, log-sum-exps, losses.
    pub(super) fn kept(&self, values: Vec<f64>) -> Vec<f64> {
        match self {
            Rounding::Exact => values,
            Rounding::Stored(..) => Rounding::round(DType::F32, &values),
        }
    }

    /// `x w^T`, not rounded yet. In f32 it is added up in f32, k upwards: there that is what errs most.
    pub(super) fn product(&self, x: &Matrix, w: &Matrix) -> Matrix {
        let turned = w.turned();
        let mut values = vec![0.0; x.rows * w.rows];
        let in_f32 = matches!(self, Rounding::Stored(setting, _) if setting.dtype == DType::F32);
        let rows_from = |first: usize, out: &mut [f64]| {
            for (at, out) in out.chunks_mut(w.rows.max(1)).enumerate() {
                let x = &x.values[(first + at) * x.cols..][..x.cols];
                match in_f32 {
                    true => dot_in_f32(x, &turned.values, out),
                    false => dot(x, &turned.values, out),
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads = threads.min(x.rows * w.rows * x.cols / PARALLEL + 1);
        let rows = x.rows.div_ceil(threads).max(1);
        if threads == 1 {
            rows_from(0, &mut values);
        } else {
            std::thread::scope(|scope| {
                for (share, out) in values.chunks_mut((rows * w.rows).max(1)).enumerate() {
                    let rows_from = &rows_from;
                    scope.spawn(move || rows_from(share * rows, out));
                }
            });
        }
        Matrix::new(x.rows, w.rows, values)
    }

    /// `x w^T + bias`, stored: a GEMM of a rank's own.
    pub(super) fn own(&self, x: &Matrix, w: &Matrix, bias: Option<&[f64]>) -> Matrix {
        let mut product = self.product(x, w);
        self.add_row(&mut product, bias);
        self.store(product)
    }

    fn add_row(&self, to: &mut Matrix, bias: Option<&[f64]>) {
        for row in to.values.chunks_mut(to.cols.max(1)) {
            let both = row.iter_mut().zip(bias.unwrap_or_default());
            both.for_each(|(to, bias)| *to = self.add(*to, *bias));
        }
    }

    /// The sum over ranks of `x_r w_r^T`, each rank with its columns of both, with bias and residual, stored.
    pub(super) fn reduced(
        &self,
        x: &Matrix,
        w: &Matrix,
        splits: &[Range<usize>],
        bias: Option<&[f64]>,
        residual: Option<&Matrix>,
    ) -> Matrix {
        let partials: Vec<Matrix> = splits
            .iter()
            .map(|split| self.product(&x.columns(split.clone()), &w.columns(split.clone())))
            .collect();
        let mut sum = self.summed(&partials);
        self.add_row(&mut sum, bias);
        if let Some(residual) = residual {
            let both = sum.values.iter_mut().zip(&residual.values);
            both.for_each(|(sum, residual)| *sum = self.add(*sum, *residual));
        }
        self.store(sum)
    }

    /// Partials on their way: rounded to the wire's type, added in f32, not rounded again.
    pub(super) fn summed(&self, partials: &[Matrix]) -> Matrix {
        let wired = partials.iter().map(|partial| match self {
            Rounding::Stored(setting, _) if setting.world > 1 => {
                Rounding::round(setting.wire.dtype(setting.dtype), &partial.values)
            }
            _ => partial.values.clone(),
        });
        let sum = wired.reduce(|mut sum, partial| {
            sum.iter_mut()
                .zip(partial)
                .for_each(|(sum, partial)| *sum = self.add(*sum, partial));
            sum
        });
        let (rows, cols) = partials.first().map_or((0, 0), |first| (first.rows, first.cols));
        Matrix::new(rows, cols, sum.unwrap_or_default())
    }

    fn add(&self, a: f64, b: f64) -> f64 {
        match self {
            Rounding::Exact => a + b,
            Rounding::Stored(..) => f64::from((a + b) as f32),
        }
    }

    /// Gradients that ranks have in parts, each stored, and summed up at the end of a step.
    pub(super) fn finished(&self, parts: Vec<Vec<f64>>) -> Vec<f64> {
        let count = parts.len();
        let stored = parts.into_iter().map(|part| self.stored(part));
        let sum = stored.reduce(|mut sum, part| {
            sum.iter_mut()
                .zip(part)
                .for_each(|(sum, part)| *sum = self.add(*sum, part));
            sum
        });
        let sum = sum.unwrap_or_default();
        if count > 1 { self.stored(sum) } else { sum }
    }

    /// `dy^T x`, of all rows.
    pub(super) fn weight_gradient(&self, dy: &Matrix, x: &Matrix) -> Matrix {
        self.store(self.product(&dy.turned(), &x.turned()))
    }

    /// The sum of dy's rows.
    pub(super) fn bias_gradient(&self, dy: &Matrix) -> Matrix {
        let ones = Matrix::new(1, dy.rows, vec![1.0; dy.rows]);
        self.store(self.product(&ones, &dy.turned()))
    }
}

fn dot(x: &[f64], turned: &[f64], out: &mut [f64]) {
    for (x, row) in x.iter().zip(turned.chunks_exact(out.len().max(1))) {
        out.iter_mut().zip(row).for_each(|(out, w)| *out += x * w);
    }
}

fn dot_in_f32(x: &[f64], turned: &[f64], out: &mut [f64]) {
    for (x, row) in x.iter().zip(turned.chunks_exact(out.len().max(1))) {
        out.iter_mut()
            .zip(row)
            .for_each(|(out, w)| *out = f64::from((*out + x * w) as f32));
    }
}
