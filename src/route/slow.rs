//! Links that a probe found far slower than they should be: they work, so a route may use them, but a person should know.

use super::pair::{Move, Pair};

/// So many times the latency of its like, or so many parts of its data sheet's rate, make a link slow. Links of one kind
/// differ by less than half, with the way through one switch or two.
const FAR: f64 = 3.0;

/// The slowest of the pairs that are far slower than their like, in words; `None`: none is.
pub(super) fn slow(pairs: &[Pair]) -> Option<String> {
    let tried = || pairs.iter().filter(|pair| pair.from != pair.to);
    let ways = |pair: &Pair| [Some(pair.push), pair.pull];
    let mut found: Vec<(f64, String)> = Vec::new();
    for (way, name) in ["stores", "loads"].into_iter().enumerate() {
        for pair in tried() {
            let Some(here) = ways(pair)[way] else { continue };
            let alike = tried().filter(|other| other.kind == pair.kind);
            if let (Some(us), Some(usual)) = (here.timed_us, median(alike.filter_map(|p| ways(p)[way]?.timed_us)))
                && us > FAR * usual
            {
                let (from, to) = (pair.from, pair.to);
                let text = format!("GPU {from} to GPU {to} is slow: {name} take {us:.2} us, elsewhere {usual:.2}");
                found.push((us / usual, text));
            }
            if let Move {
                gb_per_s,
                sheet_gb_per_s,
                measured: true,
                ..
            } = here
                && gb_per_s * FAR < sheet_gb_per_s
            {
                let (from, to) = (pair.from, pair.to);
                let text = format!(
                    "GPU {from} to GPU {to} is slow: {name} at {gb_per_s:.0} GB/s, {sheet_gb_per_s:.0} by the data sheet"
                );
                found.push((sheet_gb_per_s / gb_per_s, text));
            }
        }
    }
    // The first of equals, so that every rank names the same one.
    let slowest = found.into_iter().reduce(|a, b| if b.0 > a.0 { b } else { a });
    slowest.map(|(_, text)| text)
}

/// The lower middle: of two, one that is slow is not what is usual.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}
