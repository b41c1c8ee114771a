//! Attention: heads are the ranks', and so are partials of gradients. KV heads that several ranks have get a gradient from each.

use std::ops::Range;

use super::super::local;
use super::{Given, Heads, Matrix, Rounding, noise};

const NAMES: [&str; 3] = ["q_proj", "k_proj", "v_proj"];

/// Gradients of a head's rows of a weight and of its bias, from each rank that has it.
#[derive(Clone, Default)]
struct Of {
    weight: Vec<Vec<f64>>,
    bias: Vec<Vec<f64>>,
}

/// What a pass keeps for the backward one.
pub(super) struct Kept {
    x: Matrix,
    /// q, k and v.
    parts: [Matrix; 3],
    o: Matrix,
    heads: Heads,
}

impl Kept {
    /// Columns of a head.
    fn size(&self) -> usize {
        self.parts[0].cols / self.heads.heads.max(1)
    }

    fn of(&self, heads: usize, kv_heads: usize) -> local::Heads {
        let head_size = self.size().max(1);
        local::Heads {
            heads: heads.max(1),
            kv_heads: kv_heads.max(1),
            head_size,
            seq: self.heads.seq.unwrap_or(self.x.rows).max(1),
            scale: 1.0 / (head_size as f64).sqrt(),
        }
    }
}

pub(super) fn forward(
    r: &Rounding,
    given: &Given,
    heads: Heads,
    x: &Matrix,
    residual: Option<&Matrix>,
) -> (Matrix, Kept) {
    let of = |name: &str| (given.of(&format!("{name}.weight")), given.row(&format!("{name}.bias")));
    let parts = NAMES.map(|name| r.own(x, of(name).0, of(name).1));
    let mut kept = Kept {
        x: x.clone(),
        parts,
        o: Matrix::default(),
        heads,
    };
    let [q, k, v] = &kept.parts;
    let (o, _) = local::attention(&kept.of(heads.heads, heads.kv_heads), &q.values, &k.values, &v.values);
    kept.o = r.store(Matrix::new(x.rows, q.cols, o));
    let splits = r.split(q.cols);
    let (weight, bias) = of("o_proj");
    let y = r.reduced(&kept.o, weight, &splits, bias, residual);
    (y, kept)
}

/// The heads of one rank: q's, and k's and v's.
fn heads_of(world: usize, rank: usize, Heads { heads, kv_heads, .. }: Heads) -> (Range<usize>, Range<usize>) {
    let own = heads / world;
    let q = rank * own..(rank + 1) * own;
    let group = (heads / kv_heads.max(1)).max(1);
    let kv = q.start / group..q.end.saturating_sub(1) / group + 1;
    (q, kv)
}

/// Keeps the parameters' gradients, and gives x's.
pub(super) fn backward(
    r: &Rounding,
    given: &Given,
    kept: &Kept,
    dy: &Matrix,
    keep: &mut impl FnMut(&str, Matrix),
) -> Matrix {
    let (world, size) = (r.world(), kept.size());
    keep("do_proj.weight", r.weight_gradient(dy, &kept.o));
    if given.get("o_proj.bias").is_some() {
        keep("do_proj.bias", r.bias_gradient(dy));
    }
    let d_out = r.own(dy, &given.of("o_proj.weight").turned(), None);
    let mut partials = Vec::new();
    let Heads { heads, kv_heads, .. } = kept.heads;
    let mut gradients = [heads, kv_heads, kv_heads].map(|heads| vec![Of::default(); heads]);
    for rank in 0..world {
        let (q_heads, kv_heads) = heads_of(world, rank, kept.heads);
        let columns = |heads: &Range<usize>| heads.start * size..heads.end * size;
        let heads = [&q_heads, &kv_heads, &kv_heads];
        let [q, k, v] = [0, 1, 2].map(|i| kept.parts[i].columns(columns(heads[i])));
        let of = kept.of(q_heads.len(), kv_heads.len());
        let [o, d_out] = [&kept.o, &d_out].map(|matrix| matrix.columns(columns(&q_heads)));
        let d_parts = local::attention_backward(&of, &q.values, &k.values, &v.values, &d_out.values);
        let mut d_parts = [d_parts.dq, d_parts.dk, d_parts.dv];
        if let Some(sample) = r.sample() {
            let left_out = noise::of_attention(&of, [&q.values, &k.values, &v.values], &o.values, &d_out.values);
            for (i, values) in d_parts.iter_mut().take(2).enumerate() {
                let both = values.iter_mut().zip(&left_out.off[i]);
                both.for_each(|(value, off)| *value += off);
                noise::add(sample, values, &left_out.magnitudes[i]);
            }
        }
        let d_parts = d_parts.map(|values| {
            let cols = values.len() / kept.x.rows.max(1);
            r.store(Matrix::new(kept.x.rows, cols, values))
        });
        // One GEMM with the rank's q, k and v weights.
        let weight = |i: usize| given.of(&format!("{}.weight", NAMES[i])).some_rows(columns(heads[i]));
        let (d_all, weights) = (Matrix::beside(&d_parts), Matrix::stacked(&[0, 1, 2].map(weight)));
        partials.push(r.product(&d_all, &weights.turned()));
        for i in 0..3 {
            for (at, head) in heads[i].clone().enumerate() {
                let part = d_parts[i].columns(at * size..(at + 1) * size);
                let ones = Matrix::new(1, part.rows, vec![1.0; part.rows]);
                let of = &mut gradients[i][head];
                of.weight.push(r.product(&part.turned(), &kept.x.turned()).values);
                of.bias.push(r.product(&ones, &part.turned()).values);
            }
        }
    }
    for (name, heads) in NAMES.into_iter().zip(gradients) {
        let rows = heads.len() * size;
        let (weights, biases): (Vec<_>, Vec<_>) = heads.into_iter().map(|of| (of.weight, of.bias)).unzip();
        let finished = |parts: Vec<Vec<Vec<f64>>>| parts.into_iter().flat_map(|parts| r.finished(parts)).collect();
        keep(
            &format!("d{name}.weight"),
            Matrix::new(rows, kept.x.cols, finished(weights)),
        );
        if given.get(&format!("{name}.bias")).is_some() {
            keep(&format!("d{name}.bias"), Matrix::new(1, rows, finished(biases)));
        }
    }
    let sum = r.summed(&partials);
    r.store(sum)
}
