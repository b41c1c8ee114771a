//! What kernels' sums in f32 leave where terms cancel: an experiment that rounds only what is stored would find nothing there. Gradients of q
//! and k are sums of `p (dP - delta)`, which is 0 for a row that sees itself alone; a norm's takes away its mean and what lies along x.
//!
//! The run that rounds adds, in either direction by turns, a part of what the terms come to without their signs: 2^-22 is what an f32 sum of 64 products
//! errs by typically. Where terms do not cancel, what is stored rounds more than that, or as much.

use super::super::local::{self, Heads};

const PART: f64 = 1.0 / (1 << 22) as f64;
/// Where a value is a smaller part of its terms than this, they cancel.
const CANCELS: f64 = 1.0 / 16.0;

/// Adds it to values whose terms cancel.
pub(super) fn add(sample: u64, values: &mut [f64], magnitudes: &[f64]) {
    for (i, (value, magnitude)) in values.iter_mut().zip(magnitudes).enumerate() {
        if value.abs() < CANCELS * magnitude {
            // Neighbours, and rows of any length, differ.
            let mixed = (i as u64 + (sample << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let up = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 63 == 0;
            *value += if up { PART * magnitude } else { -PART * magnitude };
        }
    }
}

/// Gradients of q and k: what is left out where they are computed from exact numbers.
pub(super) struct LeftOut {
    /// What they are off by, since delta is taken from the output as it was stored.
    pub off: [Vec<f64>; 2],
    /// What their terms come to without signs.
    pub magnitudes: [Vec<f64>; 2],
}

/// `o`: the output as it was stored.
pub(super) fn of_attention(h: &Heads, [q, k, v]: [&[f64]; 3], o: &[f64], d_out: &[f64]) -> LeftOut {
    let (_, lse) = local::attention(h, q, k, v);
    let (size, group) = (h.head_size, (h.heads / h.kv_heads).max(1));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let unsigned = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum::<f64>();
    let zeros = || [q, k].map(|matrix| vec![0.0; matrix.len()]);
    let ([mut q_off, mut k_off], [mut of_q, mut of_k]) = (zeros(), zeros());
    for (at, lse) in lse.iter().enumerate() {
        let (row, head) = (at / h.heads, at % h.heads);
        let (own, d_own) = (&q[at * size..][..size], &d_out[at * size..][..size]);
        let of = |row: usize| (row * h.kv_heads + head / group) * size;
        let keys = row / h.seq * h.seq..=row;
        let terms = keys.clone().map(|key| {
            let (key, value) = (&k[of(key)..][..size], &v[of(key)..][..size]);
            let weight = (h.scale * dot(own, key) - lse).exp();
            [weight, dot(d_own, value), unsigned(d_own, value)]
        });
        let terms: Vec<[f64; 3]> = terms.collect();
        let delta: f64 = terms.iter().map(|[weight, slope, _]| weight * slope).sum();
        let all: f64 = terms.iter().map(|[weight, _, slope]| weight * slope).sum();
        let wrong = delta - dot(d_own, &o[at * size..][..size]);
        for (key, [weight, _, slope]) in keys.zip(terms) {
            let (off, both) = (h.scale * weight * wrong, h.scale * weight * (slope + all));
            for (i, own) in own.iter().enumerate() {
                let (to_q, to_k) = (at * size + i, of(key) + i);
                q_off[to_q] += off * k[to_k];
                k_off[to_k] += off * own;
                of_q[to_q] += both * k[to_k].abs();
                of_k[to_k] += both * own.abs();
            }
        }
    }
    LeftOut {
        off: [q_off, k_off],
        magnitudes: [of_q, of_k],
    }
}

/// Of the gradient of a norm's x.
pub(super) fn of_norm(x: &[f64], gamma: &[f64], eps: f64, centred: bool, dy: &[f64]) -> Vec<f64> {
    let cols = gamma.len().max(1);
    let rows = x.chunks_exact(cols).zip(dy.chunks_exact(cols)).flat_map(|(x, dy)| {
        let (mean, scale) = local::norm_stats(x, eps, centred);
        let along = |i: usize| ((x[i] - mean) * scale).abs();
        let through: Vec<f64> = dy.iter().zip(gamma).map(|(dy, gamma)| (dy * gamma).abs()).collect();
        let level = through.iter().sum::<f64>() / cols as f64;
        let all_along = (0..cols).map(|i| along(i) * through[i]).sum::<f64>() / cols as f64;
        let of = |i: usize| scale * (through[i] + along(i) * all_along + if centred { level } else { 0.0 });
        (0..cols).map(of).collect::<Vec<f64>>()
    });
    rows.collect()
}
