//! Ragged splits, as `torch.chunk` makes them. The kernels' twin is `csrc/schedule/chunk.h`.

use std::ops::Range;

/// The part of `0..len` that rank `rank` of `world` has: `ceil(len / world)` long; the last ranks may have less, or none.
/// Every rank from `world` on has none.
pub fn chunk(len: usize, world: usize, rank: usize) -> Range<usize> {
    let step = len.div_ceil(world.max(1));
    let begin = step.saturating_mul(rank).min(len);
    begin..begin.saturating_add(step).min(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_everything_once() {
        for len in 0..70 {
            for world in 1..=16 {
                let parts: Vec<_> = (0..world).map(|r| chunk(len, world, r)).collect();
                assert_eq!(
                    parts.iter().cloned().flatten().collect::<Vec<_>>(),
                    (0..len).collect::<Vec<_>>()
                );
                assert!(
                    parts
                        .windows(2)
                        .all(|w| w[0].len() >= w[1].len() && w[0].end == w[1].start)
                );
            }
        }
        assert_eq!(chunk(5, 4, 0), 0..2);
        assert_eq!(chunk(5, 4, 2), 4..5);
        assert_eq!(chunk(5, 4, 3), 5..5);
        assert_eq!(chunk(usize::MAX, 1, 1).len(), 0);
    }
}
