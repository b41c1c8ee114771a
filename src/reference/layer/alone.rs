//! What a rank computes alone, in f64: activations, norms, causal attention, embedding, loss, each with its derivative. Matrices are row-major slices.
//!
//! Backward functions take what a layer keeps of its forward pass (a norm's statistics, attention's output and log-sum-exp) instead of computing it
//! again: where that was rounded, its error is in the gradients, as it is in a layer's.

/// The complementary error function, to about 1e-15 of itself up to 26.
pub fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    let bell = (-x * x).exp() / std::f64::consts::PI.sqrt();
    if x < 2.0 {
        // Kummer's series of erf: every term is positive.
        let (mut term, mut sum, mut n) = (2.0 * x, 0.0, 0.0);
        while term > 1e-18 * sum {
            sum += term;
            n += 1.0;
            term *= 2.0 * x * x / (2.0 * n + 1.0);
        }
        return 1.0 - bell * sum;
    }
    // The continued fraction x + (1/2)/(x + (2/2)/(x + (3/2)/(x + ..))), from a depth that more than suffices at 2.
    let fraction = (1..=120).rev().fold(x, |below, n| x + f64::from(n) / 2.0 / below);
    bell / fraction
}

/// `x Phi(x)`: the exact GELU.
pub fn gelu(x: f64) -> f64 {
    x * erfc(-x / std::f64::consts::SQRT_2) / 2.0
}

/// Its derivative, `Phi(x) + x phi(x)`.
pub fn gelu_slope(x: f64) -> f64 {
    let bell = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    erfc(-x / std::f64::consts::SQRT_2) / 2.0 + x * bell
}

/// `1 / (1 + exp(-x))`.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `silu(gate) up`, where pairs of columns are a gate and its up.
pub fn swiglu(x: &[f64]) -> Vec<f64> {
    let pairs = x.as_chunks().0.iter();
    pairs.map(|[gate, up]| gate * sigmoid(*gate) * up).collect()
}

/// The gradient of [`swiglu`]'s argument.
pub fn swiglu_backward(x: &[f64], dy: &[f64]) -> Vec<f64> {
    let pairs = x.as_chunks().0.iter().zip(dy);
    let both = pairs.flat_map(|([gate, up], dy)| {
        let s = sigmoid(*gate);
        [dy * up * s * (1.0 + gate * (1.0 - s)), dy * gate * s]
    });
    both.collect()
}

/// A norm of rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// LayerNorm, which takes the mean away; else RMSNorm.
    pub centred: bool,
    /// Added to the variance.
    pub eps: f64,
    /// Columns.
    pub cols: usize,
}

/// Mean (0 of an RMSNorm) and `1 / sqrt(var + eps)` of every row, one behind the other.
pub fn norm_statistics(of: Norm, x: &[f64]) -> Vec<f64> {
    let n = of.cols as f64;
    let rows = x.chunks_exact(of.cols.max(1)).flat_map(|row| {
        let mean = if of.centred { row.iter().sum::<f64>() / n } else { 0.0 };
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        [mean, 1.0 / (variance + of.eps).sqrt()]
    });
    rows.collect()
}

/// `(x - mean) / sqrt(var + eps) gamma + beta`, with these statistics.
pub fn norm(of: Norm, x: &[f64], statistics: &[f64], gamma: &[f64], beta: Option<&[f64]>) -> Vec<f64> {
    let rows = x.chunks_exact(of.cols.max(1)).zip(statistics.as_chunks().0);
    let all = rows.flat_map(|(row, [mean, scale])| {
        let column = move |(i, x): (usize, &f64)| (x - mean) * scale * gamma[i] + beta.map_or(0.0, |beta| beta[i]);
        row.iter().enumerate().map(column)
    });
    all.collect()
}

/// Gradients of a norm's argument, of gamma and of beta.
pub fn norm_backward(of: Norm, x: &[f64], statistics: &[f64], gamma: &[f64], dy: &[f64]) -> [Vec<f64>; 3] {
    let (cols, n) = (of.cols, of.cols as f64);
    let (mut dx, mut dgamma, mut dbeta) = (Vec::with_capacity(x.len()), vec![0.0; cols], vec![0.0; cols]);
    let rows = x.chunks_exact(cols.max(1)).zip(dy.chunks_exact(cols.max(1)));
    for ((x, dy), [mean, scale]) in rows.zip(statistics.as_chunks().0) {
        let unit: Vec<f64> = x.iter().map(|x| (x - mean) * scale).collect();
        let through: Vec<f64> = dy.iter().zip(gamma).map(|(dy, gamma)| dy * gamma).collect();
        let along = unit.iter().zip(&through).map(|(u, t)| u * t).sum::<f64>() / n;
        let level = if of.centred {
            through.iter().sum::<f64>() / n
        } else {
            0.0
        };
        dx.extend(unit.iter().zip(&through).map(|(u, t)| scale * (t - level - u * along)));
        for i in 0..cols {
            dgamma[i] += dy[i] * unit[i];
            dbeta[i] += dy[i];
        }
    }
    [dx, dgamma, dbeta]
}

/// Causal attention over sequences that stand one behind the other; each KV head has `heads / kv_heads` neighbouring query heads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Query heads, `heads * size` columns of q and of the output.
    pub heads: usize,
    /// KV heads, `kv_heads * size` columns of k and v.
    pub kv_heads: usize,
    /// Columns of a head.
    pub size: usize,
    /// Rows of a sequence.
    pub seq: usize,
    /// What scores are multiplied with.
    pub scale: f64,
}

impl Attention {
    /// Calls `with(row, head, kv_head, first row of the sequence)` for every query.
    fn for_each(&self, rows: usize, mut with: impl FnMut(usize, usize, usize, usize)) {
        for row in 0..rows {
            for head in 0..self.heads {
                let (kv, first) = (head / (self.heads / self.kv_heads), row / self.seq.max(1) * self.seq);
                with(row, head, kv, first);
            }
        }
    }

    fn score(&self, q: &[f64], k: &[f64]) -> f64 {
        self.scale * q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>()
    }

    fn head<'a>(&self, matrix: &'a [f64], heads: usize, row: usize, head: usize) -> &'a [f64] {
        &matrix[(row * heads + head) * self.size..][..self.size]
    }
}

/// The output, and the log of every softmax's denominator, `[m, heads]`.
pub fn attention(of: Attention, q: &[f64], k: &[f64], v: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let rows = q.len() / (of.heads * of.size).max(1);
    let (mut o, mut lse) = (vec![0.0; q.len()], vec![0.0; rows * of.heads]);
    of.for_each(rows, |row, head, kv, first| {
        let own = of.head(q, of.heads, row, head);
        let scores: Vec<f64> = (first..=row)
            .map(|at| of.score(own, of.head(k, of.kv_heads, at, kv)))
            .collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum = largest + scores.iter().map(|s| (s - largest).exp()).sum::<f64>().ln();
        lse[row * of.heads + head] = sum;
        let out = &mut o[(row * of.heads + head) * of.size..][..of.size];
        for (at, score) in (first..).zip(scores) {
            let weight = (score - sum).exp();
            let values = of.head(v, of.kv_heads, at, kv);
            out.iter_mut().zip(values).for_each(|(o, v)| *o += weight * v);
        }
    });
    (o, lse)
}

/// Gradients of q, k and v. `kept`: what [`attention`] gave.
pub fn attention_backward(
    of: Attention,
    [q, k, v]: [&[f64]; 3],
    kept: (&[f64], &[f64]),
    d_out: &[f64],
) -> [Vec<f64>; 3] {
    let rows = q.len() / (of.heads * of.size).max(1);
    let [mut dq, mut dk, mut dv] = [q, k, v].map(|matrix| vec![0.0; matrix.len()]);
    of.for_each(rows, |row, head, kv, first| {
        let (own, d_own) = (of.head(q, of.heads, row, head), of.head(d_out, of.heads, row, head));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let delta = dot(d_own, of.head(kept.0, of.heads, row, head));
        for at in first..=row {
            let (key, value) = (of.head(k, of.kv_heads, at, kv), of.head(v, of.kv_heads, at, kv));
            let weight = (of.score(own, key) - kept.1[row * of.heads + head]).exp();
            let slope = of.scale * weight * (dot(d_own, value) - delta);
            let (to_q, to_kv) = ((row * of.heads + head) * of.size, (at * of.kv_heads + kv) * of.size);
            for i in 0..of.size {
                dq[to_q + i] += slope * key[i];
                dk[to_kv + i] += slope * own[i];
                dv[to_kv + i] += weight * d_own[i];
            }
        }
    });
    [dq, dk, dv]
}

/// Rows of a table `[vocabulary, cols]`; 0 where there is none of that number.
pub fn embedding(table: &[f64], cols: usize, ids: &[i64]) -> Vec<f64> {
    let row = |id: &i64| {
        let first = usize::try_from(*id).ok().and_then(|id| id.checked_mul(cols));
        let found = first.and_then(|first| table.get(first..first + cols));
        found.map_or(vec![0.0; cols], <[f64]>::to_vec)
    };
    ids.iter().flat_map(row).collect()
}

/// The gradient of the table.
pub fn embedding_backward(vocabulary: usize, cols: usize, ids: &[i64], dy: &[f64]) -> Vec<f64> {
    let mut table = vec![0.0; vocabulary * cols];
    for (id, dy) in ids.iter().zip(dy.chunks_exact(cols.max(1))) {
        if let Some(id) = usize::try_from(*id).ok().filter(|id| *id < vocabulary) {
            let row = &mut table[id * cols..][..cols];
            row.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
        }
    }
    table
}

/// Every token's loss `log sum exp(x) - x[target]`, and the log-sum-exp; both 0 where the target is `ignore`.
pub fn cross_entropy(logits: &[f64], cols: usize, targets: &[i64], ignore: Option<i64>) -> (Vec<f64>, Vec<f64>) {
    let rows = logits.chunks_exact(cols.max(1)).zip(targets);
    let both = rows.map(|(row, target)| {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = largest + row.iter().map(|x| (x - largest).exp()).sum::<f64>().ln();
        match usize::try_from(*target) {
            _ if Some(*target) == ignore => (0.0, 0.0),
            Ok(target) if target < cols => (lse - row[target], lse),
            _ => (f64::NAN, lse),
        }
    });
    both.unzip()
}

/// The gradient of the logits, with the log-sum-exp that [`cross_entropy`] gave.
pub fn cross_entropy_backward(
    logits: &[f64],
    cols: usize,
    targets: &[i64],
    ignore: Option<i64>,
    lse: &[f64],
    d_loss: &[f64],
) -> Vec<f64> {
    let rows = logits
        .chunks_exact(cols.max(1))
        .zip(targets)
        .zip(lse.iter().zip(d_loss));
    let all = rows.flat_map(|((row, target), (lse, d_loss))| {
        let slope = move |(i, x): (usize, &f64)| match Some(*target) == ignore {
            true => 0.0,
            false => d_loss * ((x - lse).exp() - f64::from(u8::from(i as i64 == *target))),
        };
        row.iter().enumerate().map(slope)
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erfc_of_known_arguments() {
        // Abramowitz and Stegun, and DLMF 7.12 for the large ones.
        for (x, value) in [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (1.0, 0.157_299_207_050_285_13),
            (2.0, 4.677_734_981_047_266e-3),
            (3.0, 2.209_049_699_858_544e-5),
            (5.0, 1.537_459_794_428_034_8e-12),
            (-1.0, 1.842_700_792_949_714_9),
        ] {
            assert!((erfc(x) / value - 1.0).abs() < 1e-13, "{x}: {} {value}", erfc(x));
        }
        let (below, above) = (erfc(2.0f64.next_down()), erfc(2.0));
        assert!((below / above - 1.0).abs() < 1e-13, "{below} {above}");
    }

    /// Numbers from a seed, about normal.
    fn drawn(count: usize, seed: u64) -> Vec<f64> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / f64::from(1 << 24) - 0.5
        };
        (0..count).map(|_| 2.0 * (next() + next() + next())).collect()
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    /// The gradient of `dot(f(at), dy)`, by central differences.
    fn agrees(at: &[f64], gradient: &[f64], objective: impl Fn(&[f64]) -> f64) {
        assert_eq!(at.len(), gradient.len());
        for (i, gradient) in gradient.iter().enumerate() {
            let moved = |by: f64| {
                let mut moved = at.to_vec();
                moved[i] += by;
                objective(&moved)
            };
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((slope - gradient).abs() < 1e-7, "{i}: {gradient}, but {slope}");
        }
    }

    #[test]
    fn activations() {
        let (x, dy) = (drawn(24, 1), drawn(12, 2));
        agrees(&x, &swiglu_backward(&x, &dy), |x| dot(&swiglu(x), &dy));
        let slopes: Vec<f64> = x.iter().map(|x| gelu_slope(*x)).collect();
        agrees(&x, &slopes, |x| x.iter().map(|x| gelu(*x)).sum());
        assert!((gelu(-6.0) / -5.919_5e-9 - 1.0).abs() < 1e-4, "{}", gelu(-6.0));
    }

    #[test]
    fn norms() {
        for centred in [false, true] {
            let of = Norm {
                centred,
                eps: 1e-3,
                cols: 6,
            };
            let (x, gamma, beta, dy) = (drawn(18, 3), drawn(6, 4), drawn(6, 5), drawn(18, 6));
            let value = |x: &[f64], gamma: &[f64], beta: &[f64]| {
                dot(&norm(of, x, &norm_statistics(of, x), gamma, Some(beta)), &dy)
            };
            let [dx, dgamma, dbeta] = norm_backward(of, &x, &norm_statistics(of, &x), &gamma, &dy);
            agrees(&x, &dx, |x| value(x, &gamma, &beta));
            agrees(&gamma, &dgamma, |gamma| value(&x, gamma, &beta));
            agrees(&beta, &dbeta, |beta| value(&x, &gamma, beta));
        }
    }

    #[test]
    fn attentions() {
        let of = Attention {
            heads: 4,
            kv_heads: 2,
            size: 3,
            seq: 5,
            scale: 0.6,
        };
        let (q, k, v, d_out) = (drawn(120, 7), drawn(60, 8), drawn(60, 9), drawn(120, 10));
        let (o, lse) = attention(of, &q, &k, &v);
        // The first row of a sequence sees itself alone.
        assert!((o[60] - v[30]).abs() < 1e-12 && (o[69] - v[33]).abs() < 1e-12);
        let [dq, dk, dv] = attention_backward(of, [&q, &k, &v], (&o, &lse), &d_out);
        agrees(&q, &dq, |q| dot(&attention(of, q, &k, &v).0, &d_out));
        agrees(&k, &dk, |k| dot(&attention(of, &q, k, &v).0, &d_out));
        agrees(&v, &dv, |v| dot(&attention(of, &q, &k, v).0, &d_out));
    }

    #[test]
    fn tables_and_losses() {
        let (table, dy, ids) = (drawn(15, 11), drawn(12, 12), [4, 0, 4, 7]);
        assert_eq!(embedding(&table, 3, &ids)[9..], [0.0; 3]);
        agrees(&table, &embedding_backward(5, 3, &ids, &dy), |table| {
            dot(&embedding(table, 3, &ids), &dy)
        });
        let (logits, d_loss, targets) = (drawn(15, 13), drawn(3, 14), [2, -100, 0]);
        let (loss, lse) = cross_entropy(&logits, 5, &targets, Some(-100));
        assert!(loss[1] == 0.0 && loss[0] > 0.0, "{loss:?}");
        let gradient = cross_entropy_backward(&logits, 5, &targets, Some(-100), &lse, &d_loss);
        agrees(&logits, &gradient, |logits| {
            dot(&cross_entropy(logits, 5, &targets, Some(-100)).0, &d_loss)
        });
    }
}
