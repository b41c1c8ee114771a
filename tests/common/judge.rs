//! Whether results are right, and whether kernels counted what they sent.

use tileweave::driver::Kind;
use tileweave::{Node, Op, Rank, reference};

use super::{Case, Data};

/// What is wrong with the results: an element out of its bound, or ranks that differ where all have the same.
pub fn wrong(c: &Case, data: &Data, results: &[Vec<u8>]) -> Option<String> {
    let expected = data.expected(c);
    for (rank, bytes) in results.iter().enumerate() {
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
        let stats = rank.stats().unwrap();
        let seen = node.driver().observed_traffic(rank.place());
        assert_eq!(
            seen,
            Some((stats.bytes_sent, stats.signals_sent)),
            "rank {}",
            rank.rank()
        );
    }
}
