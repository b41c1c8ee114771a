//! The same layer on one rank, in f64.

use tileweave::layer::Split;
use tileweave::reference::{self, Expected, Gemm};

use super::common::{Data, Rng};
use super::linear::Linear;

/// Whole operands of both passes, rounded to the layer's type.
#[derive(Debug, Clone)]
pub struct Numbers {
    /// `[m, in]`
    pub x: Vec<f64>,
    /// `[out, in]`
    pub weight: Vec<f64>,
    /// `[out]`
    pub bias: Vec<f64>,
    /// `[m, out]`
    pub dy: Vec<f64>,
    /// `[m, out]`
    pub residual: Vec<f64>,
    /// What gradients are added to, where they are.
    pub dweight: Vec<f64>,
    pub dbias: Vec<f64>,
}

impl Numbers {
    pub fn new(c: &Linear) -> Numbers {
        let (m, inputs, outputs) = (c.m, c.spec.in_features, c.spec.out_features);
        let mut rng = Rng(c.data_seed);
        let mut draw = |count: usize| {
            let drawn: Vec<f64> = (0..count).map(|_| rng.normal()).collect();
            reference::decode(c.spec.dtype, &reference::encode(c.spec.dtype, &drawn))
        };
        Numbers {
            x: draw(m * inputs),
            weight: draw(outputs * inputs),
            bias: draw(outputs),
            dy: draw(m * outputs),
            residual: draw(m * outputs),
            dweight: draw(outputs * inputs),
            dbias: draw(outputs),
        }
    }

    /// The sum of y's elements, each times dy's.
    pub fn objective(&self, c: &Linear) -> f64 {
        let (inputs, outputs) = (c.spec.in_features, c.spec.out_features);
        let y = |row: usize, col: usize| -> f64 {
            let product = (0..inputs).map(|k| self.x[row * inputs + k] * self.weight[col * inputs + k]);
            product.sum::<f64>() + self.bias[col]
        };
        let elements = (0..c.m).flat_map(|row| (0..outputs).map(move |col| (row, col)));
        elements
            .map(|(row, col)| y(row, col) * self.dy[row * outputs + col])
            .sum()
    }

    /// y, dx, dweight and dbias with their bounds.
    pub fn expected(&self, c: &Linear) -> [Expected; 4] {
        let (m, inputs, outputs) = (c.m, c.spec.in_features, c.spec.out_features);
        let (dtype, wire) = (c.spec.dtype, c.spec.wire);
        let turned_weight = Data::turned(&self.weight, inputs);
        let (turned_dy, turned_x) = (Data::turned(&self.dy, outputs), Data::turned(&self.x, inputs));
        let ones = vec![1.0; m];
        let before = [[self.dweight.as_slice()], [self.dbias.as_slice()]];
        let gemm = |[m, n, k]: [usize; 3], x, weight, bias, addends| Gemm {
            m,
            n,
            k,
            x,
            weight,
            bias,
            addends,
        };
        let bias = c.spec.bias.then_some(self.bias.as_slice());
        let y = gemm([m, outputs, inputs], &self.x, &self.weight, bias, &[]);
        let dx = gemm([m, inputs, outputs], &self.dy, &turned_weight, None, &[]);
        let added = |at: usize| -> &[&[f64]] { if c.accumulate { &before[at] } else { &[] } };
        let dweight = gemm([outputs, inputs, m], &turned_dy, &turned_x, None, added(0));
        let dbias = gemm([1, outputs, m], &ones, &turned_dy, None, added(1));
        let [y, dx] = match c.split {
            Split::Column => [y.gathered(dtype), dx.reduce(c.world, dtype, wire)],
            Split::Row if c.spec.residual => {
                let y = y.reduce_onto(&self.residual, c.world, dtype, wire);
                [y, dx.gathered(dtype)]
            }
            Split::Row => [y.reduce(c.world, dtype, wire), dx.gathered(dtype)],
        };
        [y, dx, dweight.gathered(dtype), dbias.gathered(dtype)]
    }
}
