//! What is measured. Sizes are those of one rank's GEMM, `[m, k] x [n, k]^T`, unless said otherwise.
//!
//! The models at a tensor-parallel degree of 8: Llama 3 70B (hidden 8192, feed-forward 28672, 64 heads and 8 key-value heads
//! of 128; arXiv 2407.21783, table 3) and GPT-3 175B (hidden 12288, feed-forward 49152; arXiv 2005.14165, table 2.1, and
//! d_ff = 4 d_model). Column-parallel layers split N, row-parallel layers split K:
//!
//! | layer | parallel | N | K |
//! |---|---|---|---|
//! | Llama, gate and up in one | column | 2 * 28672 / 8 = 7168 | 8192 |
//! | Llama, down | row | 8192 | 28672 / 8 = 3584 |
//! | Llama, attention output | row | 8192 | 8192 / 8 = 1024 |
//! | GPT-3, first of the MLP | column | 49152 / 8 = 6144 | 12288 |
//! | GPT-3, second of the MLP | row | 12288 | 49152 / 8 = 6144 |
//!
//! The twelve: three squares and near-squares; the four MLP layers at M = 2048 and 8192; and Llama's attention output at M =
//! 8192, whose K is so short that the pipeline's start and end count most.

use tileweave::Op;

/// A GEMM of one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gemm {
    pub layer: &'static str,
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// A fused operation over ranks: the sizes of the unsplit layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fused {
    pub layer: &'static str,
    pub op: Op,
    pub ranks: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// Which sizes: the issue's, or ones that the simulated node does in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    Full,
    Tiny,
}

const SQUARES: [(&str, usize, usize, usize); 3] = [
    ("square 4096", 4096, 4096, 4096),
    ("square 8192", 8192, 8192, 8192),
    ("16384 x 8192 x 8192", 16384, 8192, 8192),
];
const MLP: [(&str, usize, usize); 4] = [
    ("Llama 3 70B gate+up, column", 7168, 8192),
    ("Llama 3 70B down, row", 8192, 3584),
    ("GPT-3 175B fc1, column", 6144, 12288),
    ("GPT-3 175B fc2, row", 12288, 6144),
];
const ATTENTION: (&str, usize, usize) = ("Llama 3 70B attention output, row", 8192, 1024);

fn of(layer: &'static str, m: usize, n: usize, k: usize) -> Gemm {
    Gemm { layer, m, n, k }
}

/// The plain GEMMs: twelve, in full.
pub fn gemms(scale: Scale) -> Vec<Gemm> {
    if scale == Scale::Tiny {
        return vec![of("tiny square", 256, 256, 128), of("tiny, no multiples", 200, 136, 72)];
    }
    let mut all: Vec<_> = SQUARES.iter().map(|&(layer, m, n, k)| of(layer, m, n, k)).collect();
    for m in [2048, 8192] {
        all.extend(MLP.iter().map(|&(layer, n, k)| of(layer, m, n, k)));
    }
    let (layer, n, k) = ATTENTION;
    all.push(of(layer, 8192, n, k));
    all
}

/// Few rows on the weights of [`gemms`].
pub fn small(scale: Scale) -> Vec<Gemm> {
    let mut weights: Vec<Gemm> = Vec::new();
    for gemm in gemms(scale) {
        if !weights.iter().any(|w| (w.n, w.k) == (gemm.n, gemm.k)) {
            weights.push(gemm);
        }
    }
    let rows: &[usize] = if scale == Scale::Tiny {
        &[1, 16]
    } else {
        &[1, 16, 64, 128]
    };
    rows.iter()
        .flat_map(|&m| weights.iter().map(move |w| Gemm { m, ..*w }))
        .collect()
}

/// The fused operations. Row-parallel layers for those that reduce, column-parallel ones for the gather.
pub fn fused(scale: Scale) -> Vec<Fused> {
    type Layer = (&'static str, usize, usize);
    let (rows, columns, ms, worlds): ([Layer; 2], [Layer; 2], &[usize], &[usize]) = match scale {
        Scale::Tiny => (
            [("tiny row", 256, 512), ("tiny odd row", 136, 288)],
            [("tiny column", 512, 256), ("tiny odd column", 272, 136)],
            // More than a one-shot takes.
            &[520],
            &[2],
        ),
        Scale::Full => (
            [("Llama 3 70B down", 8192, 28672), ("GPT-3 175B fc2", 12288, 49152)],
            [("Llama 3 70B gate+up", 57344, 8192), ("GPT-3 175B fc1", 49152, 12288)],
            &[4096, 8192],
            &[8, 4, 2],
        ),
    };
    let mut all = Vec::new();
    for &m in ms {
        for &ranks in worlds {
            for (op, layers) in [
                (Op::GemmReduceScatter, rows),
                (Op::GemmAllReduce, rows),
                (Op::AllGatherGemm, columns),
            ] {
                all.extend(layers.map(|(layer, n, k)| Fused {
                    layer,
                    op,
                    ranks,
                    m,
                    n,
                    k,
                }));
            }
        }
    }
    all
}

/// Ranks and elements (bf16) of the all-reduce whose latency is measured: 8 KiB.
pub fn latency(scale: Scale) -> (usize, usize) {
    (if scale == Scale::Tiny { 2 } else { 8 }, 4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twelve_and_their_weights() {
        let all = gemms(Scale::Full);
        assert_eq!(all.len(), 12);
        for (i, a) in all.iter().enumerate() {
            assert!(
                all[..i].iter().all(|b| (a.m, a.n, a.k) != (b.m, b.n, b.k)),
                "{a:?} twice"
            );
        }
        assert_eq!(all.iter().filter(|g| g.m == 2048).count(), 4);
        assert_eq!(small(Scale::Full).len(), 4 * 7);
    }

    #[test]
    fn splits_of_the_models() {
        // Column: N over 8 ranks; row: K over 8 ranks. What the fused cases split is what the plain ones have.
        for fused in fused(Scale::Full).into_iter().filter(|f| f.ranks == 8) {
            let (n, k) = match fused.op {
                Op::AllGatherGemm => (fused.n / 8, fused.k),
                _ => (fused.n, fused.k / 8),
            };
            assert!(gemms(Scale::Full).iter().any(|g| (g.n, g.k) == (n, k)), "{fused:?}");
        }
        assert_eq!(fused(Scale::Full).len(), 2 * 3 * 3 * 2);
        assert!(fused(Scale::Full).iter().all(|f| f.m >= 4096));
    }
}
