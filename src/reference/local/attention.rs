//! Causal softmax attention (Vaswani et al., 2017) with grouped queries (Ainslie et al., 2023): rows of sequences one behind the other,
//! heads side by side. Query head h reads key and value head `h / (heads / kv_heads)`.
//!
//! ```text
//! s[i][j] = scale q[i] . k[j], j <= i      lse[i] = log sum_j exp s[i][j]      p = exp(s - lse)      o = p v
//! dv = p^T do      dp = do v^T      ds = p (dp - sum_j p dp) scale      dq = ds k      dk = ds^T q
//! ```

/// Which heads there are, and how rows are cut into sequences.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Of queries.
    pub heads: usize,
    /// Of keys and values.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head_size: usize,
    /// Rows of a sequence.
    pub seq: usize,
    /// By which scores are multiplied.
    pub scale: f64,
}

/// Gradients of attention.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionGradients {
    /// Of q.
    pub dq: Vec<f64>,
    /// Of k.
    pub dk: Vec<f64>,
    /// Of v.
    pub dv: Vec<f64>,
}

impl Heads {
    /// Where the columns of a head of `heads` begin, in a row.
    fn at(&self, row: usize, heads: usize, head: usize) -> usize {
        (row * heads + head) * self.head_size
    }

    /// Calls `f(row, head, the rows that it sees)`.
    fn each(&self, rows: usize, mut f: impl FnMut(usize, usize, std::ops::RangeInclusive<usize>)) {
        for row in 0..rows {
            let first = row / self.seq * self.seq;
            for head in 0..self.heads {
                f(row, head, first..=row);
            }
        }
    }

    fn dot(&self, a: &[f64], b: &[f64]) -> f64 {
        a[..self.head_size].iter().zip(b).map(|(a, b)| a * b).sum()
    }

    fn kv(&self, row: usize, head: usize) -> usize {
        self.at(row, self.kv_heads, head / (self.heads / self.kv_heads))
    }

    /// Of one row and head: the probabilities of its keys, and lse.
    fn probabilities(
        &self,
        q: &[f64],
        k: &[f64],
        head: usize,
        keys: std::ops::RangeInclusive<usize>,
    ) -> (Vec<f64>, f64) {
        let scores: Vec<f64> = keys.map(|j| self.scale * self.dot(q, &k[self.kv(j, head)..])).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = most + scores.iter().map(|s| (s - most).exp()).sum::<f64>().ln();
        (scores.iter().map(|s| (s - lse).exp()).collect(), lse)
    }
}

/// o, and lse by row and head.
pub fn attention(h: &Heads, q: &[f64], k: &[f64], v: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let rows = q.len() / (h.heads * h.head_size);
    let (mut o, mut all) = (vec![0.0; q.len()], Vec::with_capacity(rows * h.heads));
    h.each(rows, |row, head, keys| {
        let at = h.at(row, h.heads, head);
        let (p, lse) = h.probabilities(&q[at..], k, head, keys.clone());
        all.push(lse);
        for (j, p) in keys.zip(p) {
            let from = h.kv(j, head);
            (0..h.head_size).for_each(|c| o[at + c] += p * v[from + c]);
        }
    });
    (o, all)
}

/// The gradients, from that of o.
pub fn attention_backward(h: &Heads, q: &[f64], k: &[f64], v: &[f64], d: &[f64]) -> AttentionGradients {
    let rows = q.len() / (h.heads * h.head_size);
    let mut all = AttentionGradients {
        dq: vec![0.0; q.len()],
        dk: vec![0.0; k.len()],
        dv: vec![0.0; v.len()],
    };
    h.each(rows, |row, head, keys| {
        let at = h.at(row, h.heads, head);
        let (p, _) = h.probabilities(&q[at..], k, head, keys.clone());
        let dp: Vec<f64> = keys.clone().map(|j| h.dot(&d[at..], &v[h.kv(j, head)..])).collect();
        let delta: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
        for (j, (p, dp)) in keys.zip(p.iter().zip(dp)) {
            let (from, ds) = (h.kv(j, head), p * (dp - delta) * h.scale);
            for c in 0..h.head_size {
                all.dq[at + c] += ds * k[from + c];
                all.dk[from + c] += ds * q[at + c];
                all.dv[from + c] += p * d[at + c];
            }
        }
    });
    all
}
