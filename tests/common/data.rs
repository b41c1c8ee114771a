//! Operands from a seed, whole, before they are dealt to the ranks.

use std::ops::Range;

use tileweave::reference::{self, Expected, Gemm};
use tileweave::{Axis, DType, Exchange, Op};

use super::Case;

/// splitmix64, enough for test data.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// About normal: the sum of four uniforms, of variance 1.
    pub fn normal(&mut self) -> f64 {
        let z = self.next();
        let sum: f64 = (0..4).map(|i| (z >> (16 * i) & 0xffff) as f64 / 65536.0 - 0.5).sum();
        sum * 3f64.sqrt()
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Full operands, rounded to the case's type.
pub struct Data {
    pub x: Vec<f64>,
    pub weight: Vec<f64>,
    pub bias: Vec<f64>,
    pub addends: Vec<Vec<f64>>,
    pub inputs: Vec<Vec<f64>>,
    /// Of a tail; the same on every rank.
    pub residual: Vec<f64>,
    pub gamma: Vec<f64>,
}

fn round(dtype: DType, values: Vec<f64>) -> Vec<f64> {
    reference::decode(dtype, &reference::encode(dtype, &values))
}

impl Data {
    pub fn new(c: &Case) -> Data {
        let mut rng = Rng(c.data_seed);
        let mut draw = |n: usize, scale: f64| round(c.dtype, (0..n).map(|_| rng.normal() * scale).collect());
        let gemm = c.op.has_gemm();
        let scale = 1.0 / (c.k.max(1) as f64).sqrt();
        let count = |on: bool, n: usize| if on { n } else { 0 };
        let x = draw(count(gemm, c.m * c.k), 1.0);
        let weight = draw(count(gemm, c.n * c.k), scale);
        let bias = draw(count(c.bias, c.n), 1.0);
        let addends = (0..count(c.addend, c.world)).map(|_| draw(c.m * c.n, 1.0)).collect();
        let size = |(rows, cols): (usize, usize)| rows * cols;
        let inputs = (0..count(!gemm, c.world))
            .map(|r| draw(size(c.input(r)), 1.0))
            .collect();
        let residual = draw(count(c.tail.is_some() || c.residual, c.m * c.n), 2.0);
        let gamma = draw(count(c.tail.is_some(), c.n), 1.0);
        Data {
            x,
            weight,
            bias,
            addends,
            inputs,
            residual,
            gamma,
        }
    }

    /// Without a tail that normalises.
    pub fn expected(&self, c: &Case) -> Expected {
        let inputs: Vec<&[f64]> = self.inputs.iter().map(Vec::as_slice).collect();
        let addends: Vec<&[f64]> = self.addends.iter().map(Vec::as_slice).collect();
        let gemm = Gemm {
            m: c.m,
            n: c.n,
            k: c.k,
            x: &self.x,
            weight: &self.weight,
            bias: c.bias.then_some(self.bias.as_slice()),
            addends: &addends,
        };
        let in_switch = c.exchange == Some(Exchange::InSwitch);
        let onto = self.residual.as_slice();
        match c.op {
            _ if c.residual && c.row_parallel() && in_switch => {
                gemm.reduce_onto_in_switch(onto, c.world, c.dtype, c.wire)
            }
            _ if c.residual && c.row_parallel() => gemm.reduce_onto(onto, c.world, c.dtype, c.wire),
            _ if c.residual && in_switch => reference::reduce_onto_in_switch(onto, &inputs, c.m, c.n, c.dtype),
            _ if c.residual => reference::reduce_onto(onto, &inputs, c.m, c.n, c.dtype),
            Op::AllGatherGemm => gemm.gathered(c.dtype),
            _ if c.row_parallel() && in_switch => gemm.reduce_in_switch(c.world, c.dtype, c.wire),
            _ if c.row_parallel() => gemm.reduce(c.world, c.dtype, c.wire),
            Op::AllGather if c.axis == Axis::Columns => reference::gather_columns(&inputs, c.m, c.n, c.dtype),
            Op::AllGather => reference::gather(&inputs, c.m, c.n, c.dtype),
            _ if in_switch => reference::reduce_in_switch(&inputs, c.m, c.n, c.dtype),
            _ => reference::reduce(&inputs, c.m, c.n, c.dtype),
        }
    }

    /// A matrix of `cols` columns, turned round.
    pub fn turned(matrix: &[f64], cols: usize) -> Vec<f64> {
        let rows = matrix.len() / cols.max(1);
        (0..cols)
            .flat_map(|col| (0..rows).map(move |row| matrix[row * cols + col]))
            .collect()
    }

    /// The `rows` x `cols` part of a matrix of `width` columns.
    pub fn part(full: &[f64], width: usize, rows: Range<usize>, cols: Range<usize>) -> Vec<f64> {
        rows.flat_map(|r| full[r * width + cols.start..r * width + cols.end].iter().copied())
            .collect()
    }
}
