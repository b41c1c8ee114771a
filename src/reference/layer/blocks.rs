//! Norms, the MLP, the loss, and the transformer layer of them and of attention.

use super::super::{chunk, local};
use super::{Between, Given, Heads, Matrix, Rounding, attention, noise};

/// What an MLP keeps for its backward pass.
pub(super) struct Kept {
    x: Matrix,
    /// Behind the first layer, before the activation.
    product: Matrix,
    active: Matrix,
}

/// The weight of the first layer; of SwiGLU gate and up by rows in turn.
fn first(given: &Given, between: Between) -> Matrix {
    if between != Between::SwiGlu {
        return given.of("fc1.weight").clone();
    }
    let (gate, up) = (given.of("gate_proj.weight"), given.of("up_proj.weight"));
    let rows = (0..gate.rows).flat_map(|row| [gate.some_rows(row..row + 1), up.some_rows(row..row + 1)]);
    Matrix::stacked(&rows.collect::<Vec<_>>())
}

fn second(between: Between) -> &'static str {
    match between {
        Between::SwiGlu => "down_proj.weight",
        _ => "fc2.weight",
    }
}

pub(super) fn mlp(
    r: &Rounding,
    given: &Given,
    between: Between,
    x: &Matrix,
    residual: Option<&Matrix>,
) -> (Matrix, Kept) {
    let (w1, w2) = (first(given, between), given.of(second(between)));
    let product = r.own(x, &w1, given.row("fc1.bias"));
    let active = match between {
        Between::Nothing => product.clone(),
        Between::Gelu => {
            let values = local::gelu(&product.values);
            r.store(Matrix::new(product.rows, product.cols, values))
        }
        Between::SwiGlu => {
            let values = local::swiglu(&product.values);
            r.store(Matrix::new(product.rows, product.cols / 2, values))
        }
    };
    let y = r.reduced(&active, w2, &r.split(active.cols), given.row("fc2.bias"), residual);
    let x = x.clone();
    (y, Kept { x, product, active })
}

/// Keeps the parameters' gradients, and gives x's.
pub(super) fn mlp_backward(
    r: &Rounding,
    given: &Given,
    between: Between,
    kept: &Kept,
    dy: &Matrix,
    keep: &mut impl FnMut(&str, Matrix),
) -> Matrix {
    let (w1, w2) = (first(given, between), given.of(second(between)));
    let Kept { x, product, active } = kept;
    keep(&format!("d{}", second(between)), r.weight_gradient(dy, active));
    if given.get("fc2.bias").is_some() {
        keep("dfc2.bias", r.bias_gradient(dy));
    }
    let d_active = r.own(dy, &w2.turned(), None);
    let values = match between {
        Between::Nothing => d_active.values,
        Between::Gelu => local::gelu_backward(&product.values, &d_active.values),
        Between::SwiGlu => local::swiglu_backward(&product.values, &d_active.values),
    };
    let d_product = r.store(Matrix::new(product.rows, product.cols, values));
    let dw1 = r.weight_gradient(&d_product, x);
    let (wide, mut splits) = (if between == Between::SwiGlu { 2 } else { 1 }, r.split(active.cols));
    // Pairs of columns stay together.
    for split in &mut splits {
        *split = wide * split.start..wide * split.end;
    }
    if between == Between::SwiGlu {
        let each = |by: usize| {
            let rows: Vec<Matrix> = (by..dw1.rows)
                .step_by(2)
                .map(|row| dw1.some_rows(row..row + 1))
                .collect();
            Matrix {
                cols: dw1.cols,
                ..Matrix::stacked(&rows)
            }
        };
        keep("dgate_proj.weight", each(0));
        keep("dup_proj.weight", each(1));
    } else {
        keep("dfc1.weight", dw1);
        if given.get("fc1.bias").is_some() {
            keep("dfc1.bias", r.bias_gradient(&d_product));
        }
    }
    r.reduced(&d_product, &w1.turned(), &splits, None, None)
}

/// Which norm: LayerNorm where it is centred.
#[derive(Clone, Copy)]
struct Of {
    centred: bool,
    eps: f64,
}

fn normed(r: &Rounding, of: Of, x: &Matrix, gamma: &[f64], beta: Option<&[f64]>) -> Matrix {
    let values = local::norm(&x.values, gamma, beta, of.eps, of.centred);
    r.store(Matrix::new(x.rows, x.cols, values))
}

/// Gradients of x, not stored, and of gamma and beta, which ranks may have in parts.
fn normed_backward(r: &Rounding, of: Of, x: &Matrix, gamma: &[f64], dy: &Matrix) -> [Matrix; 3] {
    let shards = r.shards();
    let (mut dx, mut dgamma, mut dbeta) = (Vec::new(), Vec::new(), Vec::new());
    for rank in 0..shards {
        let rows = chunk(x.rows, shards, rank);
        let [x, dy] = [x, dy].map(|matrix| matrix.some_rows(rows.clone()).values);
        let part = local::norm_backward(&x, gamma, of.eps, of.centred, &dy);
        let mut of_rows = part.dx;
        if let Some(sample) = r.sample() {
            noise::add(
                sample,
                &mut of_rows,
                &noise::of_norm(&x, gamma, of.eps, of.centred, &dy),
            );
        }
        dx.extend(of_rows);
        dgamma.push(part.dgamma);
        dbeta.push(part.dbeta);
    }
    let row = |parts| Matrix::new(1, x.cols, r.finished(parts));
    [Matrix::new(x.rows, x.cols, dx), row(dgamma), row(dbeta)]
}

pub(super) fn norm(r: &Rounding, given: &Given, centred: bool, eps: f64, keep: &mut impl FnMut(&str, Matrix)) {
    let (x, gamma) = (given.of("x"), &given.of("weight").values);
    let of = Of { centred, eps };
    let y = normed(r, of, x, gamma, given.row("bias"));
    keep("y", y);
    if let Some(dy) = given.get("dy") {
        let [dx, dgamma, dbeta] = normed_backward(r, of, x, gamma, dy);
        keep("dx", r.store(dx));
        keep("dweight", dgamma);
        if given.get("bias").is_some() {
            keep("dbias", dbeta);
        }
    }
}

/// The gradient of a norm's x and of what goes beside it, in one sum; keeps the parameters' gradients.
fn through(
    r: &Rounding,
    given: &Given,
    (of, name): (Of, &str),
    (x, d_normed): (&Matrix, &Matrix),
    beside: &Matrix,
    keep: &mut impl FnMut(&str, Matrix),
) -> Matrix {
    let gamma = &given.of(&format!("{name}.weight")).values;
    let [mut dx, dgamma, dbeta] = normed_backward(r, of, x, gamma, d_normed);
    keep(&format!("d{name}.weight"), dgamma);
    if of.centred {
        keep(&format!("d{name}.bias"), dbeta);
    }
    let both = dx.values.iter_mut().zip(&beside.values);
    both.for_each(|(dx, beside)| *dx += beside);
    r.store(dx)
}

/// `h = x + attention(norm(x))`, `y = h + mlp(norm(h))`.
pub(super) fn transformer(r: &Rounding, given: &Given, heads: Heads, eps: f64, keep: &mut impl FnMut(&str, Matrix)) {
    let x = given.of("x");
    let between = match given.get("fc1.weight") {
        Some(_) => Between::Gelu,
        None => Between::SwiGlu,
    };
    let [before, after] = ["input_layernorm", "post_attention_layernorm"];
    let gamma = |norm: &str| &given.of(&format!("{norm}.weight")).values;
    let beta = |norm: &str| given.row(&format!("{norm}.bias"));
    let centred = beta(before).is_some();
    let of = Of { centred, eps };
    let n1 = normed(r, of, x, gamma(before), beta(before));
    let (h, kept_attention) = attention::forward(r, given, heads, &n1, Some(x));
    let n2 = normed(r, of, &h, gamma(after), beta(after));
    let (y, kept_mlp) = mlp(r, given, between, &n2, Some(&h));
    keep("y", y);
    let Some(dy) = given.get("dy") else { return };
    let dn2 = mlp_backward(r, given, between, &kept_mlp, dy, keep);
    let dh = through(r, given, (of, after), (&h, &dn2), dy, keep);
    let dn1 = attention::backward(r, given, &kept_attention, &dh, keep);
    let dx = through(r, given, (of, before), (x, &dn1), &dh, keep);
    keep("dx", dx);
}

/// Logits, column-parallel, and the tokens' losses.
pub(super) fn loss(r: &Rounding, given: &Given, ignore: Option<i64>, keep: &mut impl FnMut(&str, Matrix)) {
    let (x, weight, targets) = (given.of("x"), given.of("weight"), &given.ids);
    let logits = r.own(x, weight, None);
    let losses = local::cross_entropy(&logits.values, targets, logits.cols, ignore).loss;
    keep("y", Matrix::new(x.rows, 1, r.kept(losses)));
    if let Some(dy) = given.get("dy") {
        let values = local::cross_entropy_backward(&logits.values, targets, logits.cols, ignore, &dy.values);
        let d_logits = r.store(Matrix { values, ..logits });
        keep(
            "dx",
            r.reduced(&d_logits, &weight.turned(), &r.split(weight.rows), None, None),
        );
        keep("dweight", r.weight_gradient(&d_logits, x));
    }
}
