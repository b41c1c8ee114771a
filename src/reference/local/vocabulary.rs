//! Rows of a table by number, and the cross-entropy of logits.
//!
//! ```text
//! y[i] = table[ids[i]]                                dtable[v] = sum of dy[i] over all i with ids[i] = v
//! lse = log sum_v exp x[v]     loss = lse - x[target]     dx[v] = (exp(x[v] - lse) - [v = target]) dloss
//! ```

/// Losses, and what their gradients need.
#[derive(Debug, Clone, PartialEq)]
pub struct CrossEntropy {
    /// By row: 0 where the target is the one to ignore, NaN where it is outside the vocabulary.
    pub loss: Vec<f64>,
    /// By row.
    pub lse: Vec<f64>,
}

fn row_of(id: i64, rows: usize) -> Option<usize> {
    usize::try_from(id).ok().filter(|id| *id < rows)
}

/// y, rows of `d` columns; zeros for an id that is outside the table.
pub fn embedding(ids: &[i64], table: &[f64], d: usize) -> Vec<f64> {
    let row = |id: &i64| match row_of(*id, table.len() / d.max(1)) {
        Some(row) => table[row * d..][..d].to_vec(),
        None => vec![0.0; d],
    };
    ids.iter().flat_map(row).collect()
}

/// dtable of `rows` rows, from dy of `d` columns.
pub fn embedding_backward(ids: &[i64], dy: &[f64], rows: usize, d: usize) -> Vec<f64> {
    let mut dtable = vec![0.0; rows * d];
    for (id, dy) in ids.iter().zip(dy.chunks(d.max(1))) {
        if let Some(row) = row_of(*id, rows) {
            dtable[row * d..].iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
        }
    }
    dtable
}

/// Losses of rows of `vocabulary` logits.
pub fn cross_entropy(logits: &[f64], targets: &[i64], vocabulary: usize, ignore: Option<i64>) -> CrossEntropy {
    let (mut loss, mut all) = (Vec::new(), Vec::new());
    for (row, target) in logits.chunks(vocabulary.max(1)).zip(targets) {
        let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = most + row.iter().map(|x| (x - most).exp()).sum::<f64>().ln();
        all.push(lse);
        loss.push(match row_of(*target, vocabulary) {
            _ if ignore == Some(*target) => 0.0,
            Some(at) => lse - row[at],
            None => f64::NAN,
        });
    }
    CrossEntropy { loss, lse: all }
}

/// The gradient of the logits, from that of each row's loss.
pub fn cross_entropy_backward(
    logits: &[f64],
    targets: &[i64],
    vocabulary: usize,
    ignore: Option<i64>,
    dloss: &[f64],
) -> Vec<f64> {
    let lse = cross_entropy(logits, targets, vocabulary, ignore).lse;
    let mut dx = Vec::with_capacity(logits.len());
    for (i, row) in logits.chunks(vocabulary.max(1)).enumerate() {
        let target = targets[i];
        for (v, x) in row.iter().enumerate() {
            let hit = f64::from(u8::from(row_of(target, vocabulary) == Some(v)));
            let ignored = ignore == Some(target);
            dx.push(if ignored {
                0.0
            } else {
                ((x - lse[i]).exp() - hit) * dloss[i]
            });
        }
    }
    dx
}
