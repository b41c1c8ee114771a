//! Which heads a rank has.

use std::ops::Range;

use crate::error::{Error, Result};

/// The query heads and the KV heads of one rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heads {
    pub q: Range<usize>,
    pub kv: Range<usize>,
}

/// Query heads are split evenly. KV heads are split where there are as many as ranks or more, else neighbouring ranks have the same.
pub(super) fn of_rank(heads: usize, kv_heads: usize, world: usize, rank: usize) -> Result<Heads> {
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) || heads == 0 {
        let expected = format!("a multiple of the {kv_heads} KV heads, at least 1 of each");
        return Err(Error::bad_argument("heads", heads, expected));
    }
    if world == 0 || rank >= world {
        return Err(Error::bad_argument("rank", rank, format!("one below {world}")));
    }
    if !heads.is_multiple_of(world) {
        return Err(Error::bad_argument(
            "heads",
            heads,
            format!("a multiple of the {world} ranks"),
        ));
    }
    if !kv_heads.is_multiple_of(world) && !world.is_multiple_of(kv_heads) {
        let expected = format!("a multiple of the {world} ranks, or a number that divides them");
        return Err(Error::bad_argument("kv_heads", kv_heads, expected));
    }
    let own = heads / world;
    let kv = match kv_heads / world {
        0 => {
            let head = rank / (world / kv_heads);
            head..head + 1
        }
        own => rank * own..(rank + 1) * own,
    };
    Ok(Heads {
        q: rank * own..(rank + 1) * own,
        kv,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every query head lies on the rank that has its KV head.
    #[test]
    fn queries_are_where_their_keys_are() {
        for (heads, kv_heads) in [(8, 8), (8, 2), (8, 1), (32, 8), (6, 3), (16, 4)] {
            for world in 1..=16 {
                let split: Result<Vec<Heads>> = (0..world).map(|rank| of_rank(heads, kv_heads, world, rank)).collect();
                let possible = heads % world == 0 && (kv_heads % world == 0 || world % kv_heads == 0);
                assert_eq!(split.is_ok(), possible, "{heads} {kv_heads} {world}");
                let mut seen = 0;
                for of_rank in split.into_iter().flatten() {
                    for q in of_rank.q {
                        assert_eq!(q, seen);
                        assert!(
                            of_rank.kv.contains(&(q / (heads / kv_heads))),
                            "{heads} {kv_heads} {world}"
                        );
                        seen += 1;
                    }
                }
                assert_eq!(seen, if possible { heads } else { 0 });
            }
        }
    }
}
