//! Layers of one operation in each direction, and their bounds, which are those of the operations.

use std::collections::BTreeMap;

use super::super::{Expected, Gemm, local};
use super::{Given, Kind, Matrix, Rounding, Setting};

pub(super) fn column(r: &Rounding, given: &Given, keep: &mut impl FnMut(&str, Matrix)) {
    let (x, weight) = (given.of("x"), given.of("weight"));
    keep("y", r.own(x, weight, given.row("bias")));
    if let Some(dy) = given.get("dy") {
        keep("dx", r.reduced(dy, &weight.turned(), &r.split(dy.cols), None, None));
        gradients(r, given, dy, keep);
    }
}

pub(super) fn row(r: &Rounding, given: &Given, keep: &mut impl FnMut(&str, Matrix)) {
    let (x, weight) = (given.of("x"), given.of("weight"));
    keep("y", r.reduced(x, weight, &r.split(x.cols), given.row("bias"), None));
    if let Some(dy) = given.get("dy") {
        keep("dx", r.own(dy, &weight.turned(), None));
        gradients(r, given, dy, keep);
    }
}

fn gradients(r: &Rounding, given: &Given, dy: &Matrix, keep: &mut impl FnMut(&str, Matrix)) {
    keep("dweight", r.weight_gradient(dy, given.of("x")));
    if given.get("bias").is_some() {
        keep("dbias", r.bias_gradient(dy));
    }
}

pub(super) fn embedding(r: &Rounding, given: &Given, keep: &mut impl FnMut(&str, Matrix)) {
    let (table, ids) = (given.of("weight"), &given.ids);
    let y = local::embedding(ids, &table.values, table.cols);
    keep("y", Matrix::new(ids.len(), table.cols, y));
    if let Some(dy) = given.get("dy") {
        let sums = local::embedding_backward(ids, &dy.values, table.rows, table.cols);
        keep("dweight", r.store(Matrix::new(table.rows, table.cols, sums)));
    }
}

/// What comes out, with the bounds of the operations.
pub(super) fn bounded(kind: &Kind, given: &Given, setting: &Setting) -> BTreeMap<String, Expected> {
    let Setting { dtype, wire, world, .. } = *setting;
    let (x, weight, bias) = (given.of("x"), given.of("weight"), given.row("bias"));
    let mut all = BTreeMap::new();
    let mut keep = |name: &str, expected: Expected| {
        all.insert(name.to_string(), expected);
    };
    if *kind == Kind::Embedding {
        // One rank's row and zeros of the others.
        let y = local::embedding(&given.ids, &weight.values, weight.cols);
        keep(
            "y",
            Expected {
                rows: given.ids.len(),
                cols: weight.cols,
                dtype,
                bound: vec![0.0; y.len()],
                value: y,
            },
        );
        if let Some(dy) = given.get("dy") {
            // A row's gradient is the sum of the tokens that have its id.
            let has = |id: usize| {
                given
                    .ids
                    .iter()
                    .map(move |token| f64::from(u8::from(*token == id as i64)))
            };
            let hot = Matrix::new(weight.rows, dy.rows, (0..weight.rows).flat_map(has).collect());
            keep("dweight", gemm(&hot, &dy.turned(), None).gathered(dtype));
        }
        return all;
    }
    let y = gemm(x, weight, bias);
    keep(
        "y",
        match kind {
            Kind::Column => y.gathered(dtype),
            _ => y.reduce(world, dtype, wire),
        },
    );
    if let Some(dy) = given.get("dy") {
        let turned = weight.turned();
        let dx = gemm(dy, &turned, None);
        keep(
            "dx",
            match kind {
                Kind::Column => dx.reduce(world, dtype, wire),
                _ => dx.gathered(dtype),
            },
        );
        let dy = dy.turned();
        keep("dweight", gemm(&dy, &x.turned(), None).gathered(dtype));
        if bias.is_some() {
            let ones = Matrix::new(1, dy.cols, vec![1.0; dy.cols]);
            keep("dbias", gemm(&ones, &dy, None).gathered(dtype));
        }
    }
    all
}

fn gemm<'a>(x: &'a Matrix, weight: &'a Matrix, bias: Option<&'a [f64]>) -> Gemm<'a> {
    Gemm {
        m: x.rows,
        n: weight.rows,
        k: x.cols,
        x: &x.values,
        weight: &weight.values,
        bias,
        addends: &[],
    }
}
