//! What a rank asks NCCL for in one collective.
//!
//! NCCL's reduce-scatter and all-gather have chunks of one size, `torch.chunk` has a last one that may be smaller, and ranks
//! without any. Where M is no multiple of the ranks, each chunk is a reduction to its owner, or a broadcast from it, all in
//! one group, which NCCL runs side by side: what PyTorch does for uneven chunks, too. No padding, no other memory.

use crate::dtype::DType;
use crate::op::{Op, chunk};

/// What the ranks do together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collective {
    /// Everybody's sum to everybody.
    AllReduce,
    /// Each rank's part of the sum to it.
    ReduceScatter,
    /// Everybody's part to everybody.
    AllGather,
    /// The sum to one rank.
    Reduce {
        /// Which.
        root: usize,
    },
    /// What one rank has to everybody.
    Broadcast {
        /// Which.
        root: usize,
    },
}

/// One rank's part in a collective: matrices without gaps in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// What.
    pub collective: Collective,
    /// What this rank gives; of no meaning where it gives nothing.
    pub from: u64,
    /// What this rank gets; 0 where it gets nothing. Equal to `from`: in place.
    pub to: u64,
    /// Elements, as NCCL counts them: of a rank's result of a reduce-scatter, of a rank's input of all else.
    pub count: usize,
    /// Their type.
    pub dtype: DType,
}

/// A rank's calls for the collective of `op` on `m` rows of `cols` columns: none where there is nothing to move. All go into one
/// group. What `from` and `to` hold is what [`Operands`](crate::Operands) says of the plain collective's x and out.
pub fn calls(
    op: Op,
    m: usize,
    cols: usize,
    (world, rank): (usize, usize),
    (from, to): (u64, u64),
    dtype: DType,
) -> Vec<Call> {
    let call = |collective, from, to, rows: usize| Call {
        collective,
        from,
        to,
        count: rows * cols,
        dtype,
    };
    let bytes = |rows: usize| (rows * cols * dtype.size()) as u64;
    let even = m.is_multiple_of(world);
    let owners = (0..world).map(|owner| (owner, chunk(m, world, owner)));
    let owners = owners.filter(|(_, rows)| !rows.is_empty());
    match op.collective() {
        _ if m == 0 || cols == 0 => Vec::new(),
        Op::AllReduce => vec![call(Collective::AllReduce, from, to, m)],
        Op::ReduceScatter if even => vec![call(Collective::ReduceScatter, from, to, m / world)],
        Op::ReduceScatter => owners
            .map(|(root, rows)| {
                let to = if root == rank { to } else { 0 };
                call(Collective::Reduce { root }, from + bytes(rows.start), to, rows.len())
            })
            .collect(),
        _ if even => vec![call(Collective::AllGather, from, to, m / world)],
        _ => owners
            .map(|(root, rows)| {
                let to = to + bytes(rows.start);
                let from = if root == rank { from } else { to };
                call(Collective::Broadcast { root }, from, to, rows.len())
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_chunks_are_one_call_and_uneven_ones_a_call_an_owner() {
        let of = |op, m, rank| calls(op, m, 10, (4, rank), (1000, 9000), DType::F32);
        let one = |collective, count| Call {
            collective,
            from: 1000,
            to: 9000,
            count,
            dtype: DType::F32,
        };
        assert_eq!(of(Op::ReduceScatter, 8, 1), [one(Collective::ReduceScatter, 20)]);
        assert_eq!(of(Op::AllGatherGemm, 8, 1), [one(Collective::AllGather, 20)]);
        assert_eq!(of(Op::GemmAllReduce, 7, 1), [one(Collective::AllReduce, 70)]);
        // Chunks of 2, 2, 1 and no rows.
        let reduce = |root, from, to, count| Call {
            from,
            to,
            ..one(Collective::Reduce { root }, count)
        };
        let expected = [
            reduce(0, 1000, 0, 20),
            reduce(1, 1080, 9000, 20),
            reduce(2, 1160, 0, 10),
        ];
        assert_eq!(of(Op::GemmReduceScatter, 5, 1), expected);
        let broadcast = |root, from, to, count| Call {
            from,
            to,
            ..one(Collective::Broadcast { root }, count)
        };
        let expected = [
            broadcast(0, 9000, 9000, 20),
            broadcast(1, 9080, 9080, 20),
            broadcast(2, 1000, 9160, 10),
        ];
        assert_eq!(of(Op::AllGather, 5, 2), expected);
        assert_eq!(of(Op::AllGather, 5, 3).len(), 3);
        assert!(of(Op::AllReduce, 0, 0).is_empty());
    }
}
