//! Whether results are right, and whether kernels counted what they sent.

use tileweave::driver::Kind;
use tileweave::reference::Expected;
use tileweave::{DType, Epilogue, Node, Op, Rank, reference};

use super::{Case, Data};

/// What is wrong with the results: an element out of its bound, or ranks that differ where all have the same.
pub fn wrong(c: &Case, data: &Data, results: &[Vec<u8>]) -> Option<String> {
    let expected = data.expected(c);
    let mut all = vec![(expected, results.to_vec())];
    if let Some(eps) = c.tail {
        // A result is followed by the updated residual.
        let tail = all[0].0.rms_norm(&data.residual, &data.gamma, eps);
        let half = |i: usize| {
            results
                .iter()
                .map(move |r| r[i * (r.len() / 2)..][..r.len() / 2].to_vec())
        };
        all = vec![(tail.out, half(0).collect()), (tail.residual, half(1).collect())];
        for (rank, (out, h)) in half(0).zip(half(1)).enumerate() {
            if let Some(wrong) = not_exact(c, data, eps, &out, &h) {
                return Some(format!("rank {rank}: {wrong}"));
            }
        }
    }
    if c.epilogue.is_some() {
        return activated(c, &all[0].0, results);
    }
    let parts = all
        .iter()
        .flat_map(|(expected, parts)| parts.iter().enumerate().map(move |part| (expected, part)));
    for (expected, (rank, bytes)) in parts {
        let (rows, cols) = c.part(rank);
        let verdict = expected.compare(rows, cols, &reference::decode(c.dtype, bytes));
        if let Some(worst) = verdict.wrong {
            return Some(format!(
                "rank {rank}: {} elements wrong, worst {worst:?}",
                verdict.wrong_count
            ));
        }
    }
    let same = matches!(c.op, Op::GemmAllReduce | Op::AllReduce | Op::AllGather);
    (same && results.windows(2).any(|w| w[0] != w[1])).then(|| "ranks differ".to_string())
}

/// What `epilogue` makes of what is expected.
pub fn after(epilogue: Epilogue, pre: &Expected) -> Expected {
    match epilogue {
        Epilogue::Gelu => pre.gelu(),
        Epilogue::SwiGlu => pre.swiglu(),
        _ => pre.clone(),
    }
}

/// An activation's result, followed by the product where it is saved: then the result is judged by that, too.
fn activated(c: &Case, pre: &Expected, results: &[Vec<u8>]) -> Option<String> {
    let made = after(c.epilogue, pre);
    results.iter().enumerate().find_map(|(rank, bytes)| {
        let (rows, cols) = c.part(rank);
        let (out, saved) = bytes.split_at(rows.len() * cols.len() * c.dtype.size());
        let out = reference::decode(c.dtype, out);
        let mut verdicts = vec![("out", made.compare(rows.clone(), cols.clone(), &out))];
        if c.saved {
            let saved = reference::decode(c.dtype, saved);
            verdicts.push(("saved", pre.compare(rows.clone(), c.n_of(rank), &saved)));
            let own = given(rows.len(), c.n_of(rank).len(), c.dtype, saved);
            verdicts.push((
                "out of saved",
                after(c.epilogue, &own).compare(rows, 0..cols.len(), &out),
            ));
        }
        let (name, verdict) = verdicts.into_iter().find(|(_, verdict)| verdict.wrong.is_some())?;
        let count = verdict.wrong_count;
        Some(format!(
            "rank {rank}: {count} elements of {name} wrong, worst {:?}",
            verdict.wrong
        ))
    })
}

/// A product that is known exactly.
pub fn given(rows: usize, cols: usize, dtype: DType, value: Vec<f64>) -> Expected {
    let bound = vec![0.0; value.len()];
    Expected {
        rows,
        cols,
        dtype,
        value,
        bound,
    }
}

/// Given the updated residual, every bit of a tail's result is fixed.
fn not_exact(c: &Case, data: &Data, eps: f32, out: &[u8], h: &[u8]) -> Option<String> {
    let h = reference::decode(c.dtype, h);
    let (_, want) = reference::rms_norm_exactly(&h, &vec![0.0; h.len()], &data.gamma, eps, c.n, c.dtype);
    let got = reference::decode(c.dtype, out);
    let at = (0..got.len()).find(|i| got[*i] != want[*i] && !(got[*i].is_nan() && want[*i].is_nan()))?;
    Some(format!(
        "element {at} is {}, and {} in the promised order",
        got[at], want[at]
    ))
}

/// Panics if anything is wrong.
pub fn judge(c: &Case, data: &Data, results: &[Vec<u8>], what: &str) {
    if let Some(wrong) = wrong(c, data, results) {
        panic!("{what}: {c:?}: {wrong}");
    }
}

/// What the machine saw leave each rank must be what the kernels counted.
pub fn check_traffic(node: &Node, ranks: &[Rank]) {
    if node.driver().kind() != Kind::Sim {
        return;
    }
    for rank in ranks {
        let stats = rank.stats();
        let seen = node.driver().observed_traffic(rank.place());
        assert_eq!(
            seen,
            Some((stats.bytes_sent(), stats.signals_sent)),
            "rank {}",
            rank.rank()
        );
    }
}
