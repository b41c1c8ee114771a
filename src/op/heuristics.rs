//! Which mainloop and which tile a GEMM gets, and whether CTAs work in pairs.
//!
//! A pure function of what every rank of a group knows alike. Each answer changes at most once as M grows, and never back,
//! on which plans count. Thresholds are in blocks, with the 132 SMs of an H100 or H200 in mind; the machine's own number
//! would make results differ from machine to machine, since the mainloop decides on the bits of a product.
//!
//! [1 GPU] none of the thresholds has been measured yet; each says what it is reckoned from.

use super::exchange::two_shot_only;
use super::kernel::{Family, Kernel, Tile};
use super::{Layout, Mainloop, Op, OpSpec};
use crate::abi;
use crate::dtype::DType;

/// The least blocks of 128 x 256 for which they are taken instead of 128 x 128. Half as large blocks are twice as many: up
/// to 66 of the large ones, 132 small ones still fill the SMs in one go. Beyond, the large block is better: it reads 10
/// bytes of shared memory where the small one reads 12, of 16 that there are for the tensor cores' time, and loads 3/4 of
/// the operands.
const WIDE_BLOCKS: u64 = 64;
/// The least rows a rank owns, or sends, that go into blocks 128 rows high: below, more than half of a block would be empty.
pub(crate) const LEAST_CHUNK: u64 = 64;
/// GEMMs of fewer rows are split along K, which the Hopper tiles of 128 rows are not.
const SPLIT_ROWS: u64 = 128;
/// The least rows of blocks for which they are taken in pairs. An odd one has a partner with nothing to do; without pairs blocks ask
/// the L2 for half as much again. On the clock (docs/clock.md, 4 and 8 H100, N 2048 to 8192) pairs take 0.83 to 1.07 of the
/// time from 2 rows of a rank's blocks to 5; of an all-reduce 0.98 to 1.18 up to 7 rows of all blocks, and 0.89 to 1.02 at 8.
const PAIR_ROWS: u64 = 2;
const PAIR_ROWS_OF_ALL: u64 = 8;

/// What a choice depends on beside the operation: equal on every rank of a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub world: usize,
    /// The largest message of a one-shot all-reduce, in bytes.
    pub one_shot_bytes: u64,
    /// Whether Hopper kernels run on every rank.
    pub hopper: bool,
    /// Whether two CTAs of each do, so that they can work in pairs.
    pub pairs: bool,
}

/// What the kernels of an operation are made of at some M.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    pub mainloop: Mainloop,
    /// Of the kernel that communicates.
    pub tile: Tile,
    /// CTAs of a cluster, which share the weight's columns: 1 or 2.
    pub cluster: u32,
}

/// The rows of blocks that a kernel of `op` takes together: of one owner, one source, or all.
fn block_rows(op: Op, m: u64, world: u64, tile: Tile) -> u64 {
    let rows = match op {
        Op::GemmReduceScatter | Op::AllGatherGemm => m.div_ceil(world),
        _ => m,
    };
    rows.div_ceil(tile.shape().0)
}

/// Whether a fused all-reduce of `spec` at `m` takes one exchange: its message is small enough.
pub(crate) fn one_shot(spec: &OpSpec, m: u64, setting: &Setting) -> bool {
    let row =
        (spec.n as u64).next_multiple_of(abi::TW_PACKET_COLUMNS as u64) * spec.wire_dtype(setting.world).size() as u64;
    spec.op == Op::GemmAllReduce && !two_shot_only(spec) && m.saturating_mul(row) <= setting.one_shot_bytes
}

/// Whether the Hopper mainloop computes `spec` at `m`, if every operand is in its reach; else why not.
pub(crate) fn hopper(spec: &OpSpec, m: u64, setting: &Setting) -> Result<(), &'static str> {
    if spec.dtype == DType::F32 {
        return Err("f32 has no Hopper mainloop");
    }
    if !setting.hopper {
        return Err("not every rank's GPU has TMA and wgmma (compute capability 9.0)");
    }
    if spec.layout != Layout::Nt {
        return Err("K is not contiguous in both operands, as TMA and wgmma have them here");
    }
    if spec.mainloop == Some(Mainloop::Portable) {
        return Err("the portable mainloop was asked for");
    }
    if spec.mainloop == Some(Mainloop::Hopper) || one_shot(spec, m, setting) {
        return Ok(());
    }
    if m <= SPLIT_ROWS {
        return Err("at most 128 rows, which are split along K, for a kernel that has no blocks of 64 rows there");
    }
    let chunk = match spec.op {
        Op::GemmReduceScatter | Op::AllGatherGemm => m.div_ceil(setting.world as u64),
        _ => m,
    };
    if chunk < LEAST_CHUNK {
        return Err("fewer than 64 rows a rank, in blocks of 128");
    }
    Ok(())
}

/// Whether Hopper's widest blocks are out of the question: threads that gather, or hold 256 columns, leave no register for an activation.
/// The same on both routes, whose products have the same bits.
pub(crate) fn narrow(spec: &OpSpec) -> bool {
    spec.op == Op::AllGatherGemm && spec.epilogue.is_some()
}

/// The choice for `op`, which is `spec`'s or, for its GEMM alone on the unfused path, `None`.
pub(crate) fn choose(spec: &OpSpec, op: Option<Op>, m: u64, setting: &Setting) -> Choice {
    let mainloop = match hopper(spec, m, setting) {
        Ok(()) => Mainloop::Hopper,
        Err(_) => Mainloop::Portable,
    };
    let n = spec.n as u64;
    let blocks = |tile: Tile| m.div_ceil(tile.shape().0) * n.div_ceil(tile.shape().1);
    if mainloop == Mainloop::Portable {
        // Ranks of a gather may have different N, and must agree on the rows of a block.
        let large = match op {
            Some(Op::AllGatherGemm) => m >= 512,
            _ if spec.op == Op::AllGatherGemm => m >= 512,
            // Half the operand bytes a flop, once there are blocks for about half of an H100's SMs.
            _ => !one_shot(spec, m, setting) && m >= 256 && blocks(Tile::Large) >= 64,
        };
        let tile = match spec.dtype {
            DType::F32 => Tile::F32,
            _ if large => Tile::Large,
            _ => Tile::Small,
        };
        return Choice {
            mainloop,
            tile,
            cluster: 1,
        };
    }
    let (whose, world) = (op.unwrap_or(Op::GemmAllReduce), setting.world as u64);
    // Every owner's, or source's, rows begin new blocks.
    let parts = match whose {
        Op::GemmReduceScatter | Op::AllGatherGemm => world,
        _ => 1,
    };
    let wide = parts * block_rows(whose, m, world, Tile::Wide) * n.div_ceil(Tile::Wide.shape().1);
    let tile = if one_shot(spec, m, setting) {
        Tile::Slim
    } else if !narrow(spec) && spec.columns.map_or(wide >= WIDE_BLOCKS, |columns| columns == 256) {
        Tile::Wide
    } else {
        Tile::Large
    };
    let rows = block_rows(whose, m, world, tile);
    let least = match op {
        Some(Op::GemmAllReduce) if tile != Tile::Slim => PAIR_ROWS_OF_ALL,
        _ => PAIR_ROWS,
    };
    // A rank without columns has no blocks to pair, but in a gather, whose ranks must agree, the others may have.
    let some = n > 0 || spec.op == Op::AllGatherGemm;
    let asked = spec.pairs.filter(|_| tile != Tile::Slim);
    let pairs = setting.pairs && some && asked.unwrap_or(rows >= least);
    Choice {
        mainloop,
        tile,
        cluster: if pairs { 2 } else { 1 },
    }
}

/// The CTAs of a two-shot Hopper GEMM + all-reduce that only reduce. None: two warps beside math cost no SM, and have
/// the bytes under way that links carry (`csrc/kernels/sm90_roles.h`); how much they slow math down, only a GPU tells, and none has.
pub(crate) fn reducers(spec: &OpSpec, kernel: Kernel) -> u32 {
    match (kernel.family, kernel.mainloop) {
        (Family::GemmAllReduce, Mainloop::Hopper) => spec.reducers.unwrap_or(0) as u32,
        _ => 0,
    }
}

/// Why `spec` goes to the portable mainloop at `m` on a Hopper machine, for a person; nothing where there is nothing to say.
pub(crate) fn explain(spec: &OpSpec, m: u64, setting: &Setting) -> Option<String> {
    if !spec.op.has_gemm() || spec.dtype == DType::F32 || !setting.hopper {
        return None;
    }
    match hopper(spec, m, setting) {
        Ok(()) => addressable_k(spec).err().map(|why| format!("portable mainloop: {why}")),
        Err(why) => Some(format!("portable mainloop: {why}")),
    }
}

/// Whether rows of K values can be what TMA copies, if nothing lies between them.
pub(crate) fn addressable_k(spec: &OpSpec) -> Result<(), String> {
    let bytes = spec.k * spec.dtype.size();
    if spec.k == 0 || !bytes.is_multiple_of(16) {
        return Err(format!(
            "K = {} is {bytes} bytes, no positive multiple of 16 (TMA)",
            spec.k
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(world: usize, hopper: bool) -> Setting {
        Setting {
            world,
            one_shot_bytes: 65536,
            hopper,
            pairs: true,
        }
    }

    fn of(op: Op, m: u64, n: usize, world: usize) -> (Mainloop, Tile, u32) {
        let spec = OpSpec::new(op, n, 4096, 1 << 20, DType::Bf16);
        let c = choose(&spec, Some(op), m, &setting(world, true));
        (c.mainloop, c.tile, c.cluster)
    }

    #[test]
    fn shapes_of_models() {
        use Mainloop::*;
        let cases = [
            (Op::GemmReduceScatter, 8192, 8192, 8, (Hopper, Tile::Wide, 2)),
            (Op::GemmReduceScatter, 2048, 8192, 8, (Hopper, Tile::Wide, 2)),
            (Op::GemmReduceScatter, 1024, 8192, 8, (Hopper, Tile::Wide, 1)),
            (Op::GemmAllReduce, 2048, 8192, 8, (Hopper, Tile::Wide, 2)),
            (Op::GemmAllReduce, 512, 4096, 8, (Hopper, Tile::Wide, 1)),
            (Op::GemmAllReduce, 1024, 1024, 8, (Hopper, Tile::Large, 2)),
            (Op::GemmAllReduce, 512, 2048, 8, (Hopper, Tile::Large, 1)),
            (Op::GemmAllReduce, 384, 4096, 8, (Hopper, Tile::Large, 1)),
            (Op::GemmAllReduce, 256, 64, 8, (Hopper, Tile::Slim, 2)),
            (Op::GemmAllReduce, 128, 256, 8, (Hopper, Tile::Slim, 2)),
            (Op::GemmAllReduce, 1, 8192, 8, (Hopper, Tile::Slim, 1)),
            (Op::GemmAllReduce, 128, 8192, 8, (Portable, Tile::Small, 1)),
            (Op::AllGatherGemm, 8192, 1280, 8, (Hopper, Tile::Wide, 2)),
            (Op::AllGatherGemm, 511, 1280, 8, (Hopper, Tile::Large, 1)),
            // 8 x 14 blocks, if of half as many rows.
            (Op::AllGatherGemm, 512, 3584, 8, (Hopper, Tile::Wide, 1)),
            (Op::AllGatherGemm, 504, 1280, 8, (Portable, Tile::Small, 1)),
        ];
        for (op, m, n, world, expected) in cases {
            assert_eq!(of(op, m, n, world), expected, "{op} {m} {n} {world}");
        }
    }

    #[test]
    fn every_answer_changes_once_at_most() {
        for op in [Op::GemmReduceScatter, Op::GemmAllReduce, Op::AllGatherGemm] {
            for n in [0, 1, 256, 300, 5000, 100_000] {
                for world in [1, 2, 3, 8, 16] {
                    let all: Vec<_> = (0..5000).map(|m| of(op, m, n, world)).collect();
                    let changes = all.windows(2).filter(|w| w[0] != w[1]).count();
                    assert!(changes <= 5, "{op} {n} {world}: {changes}");
                    let hopper: Vec<_> = all
                        .iter()
                        .filter(|c| c.1 == Tile::Wide || (c.1, c.0) == (Tile::Large, Mainloop::Hopper))
                        .collect();
                    assert!(
                        hopper.is_sorted_by_key(|c| (c.1 == Tile::Wide, c.2))
                            || hopper.is_sorted_by_key(|c| (c.2, c.1 == Tile::Wide))
                    );
                }
            }
        }
    }

    #[test]
    fn blocks_that_are_asked_for() {
        let of = |columns, pairs, hopper| {
            let spec = OpSpec::new(Op::GemmAllReduce, 8192, 4096, 1 << 20, DType::Bf16).blocks(columns, pairs);
            let c = choose(&spec, Some(Op::GemmAllReduce), 2048, &setting(4, hopper));
            (c.tile, c.cluster)
        };
        assert_eq!(
            (of(128, false, true), of(256, true, true)),
            ((Tile::Large, 1), (Tile::Wide, 2))
        );
        assert_eq!(
            of(256, true, false),
            (Tile::Large, 1),
            "the portable mainloop has its own"
        );
        let odd = OpSpec::new(Op::GemmAllReduce, 8, 8, 8, DType::Bf16).blocks(192, false);
        assert_eq!(
            odd.check().unwrap_err().to_string(),
            "columns is 192: expected 128 or 256"
        );
    }

    #[test]
    fn what_is_asked_for_and_what_is_out_of_reach() {
        let spec = OpSpec::new(Op::GemmAllReduce, 4096, 4096, 1 << 20, DType::F16);
        let asked = |mainloop, m, machine| hopper(&spec.clone().mainloop(mainloop), m, &setting(4, machine));
        assert!(asked(Mainloop::Hopper, 1, true).is_ok());
        assert!(asked(Mainloop::Hopper, 1, false).unwrap_err().contains("TMA"));
        assert!(asked(Mainloop::Portable, 4096, true).unwrap_err().contains("asked for"));
        assert!(
            hopper(
                &OpSpec {
                    dtype: DType::F32,
                    ..spec.clone()
                },
                4096,
                &setting(4, true)
            )
            .unwrap_err()
            .contains("f32")
        );
        assert_eq!(explain(&spec, 4096, &setting(4, true)), None);
        let odd = OpSpec { k: 36, ..spec.clone() };
        assert_eq!(
            explain(&odd, 4096, &setting(4, true)).unwrap(),
            "portable mainloop: K = 36 is 72 bytes, no positive multiple of 16 (TMA)"
        );
        assert!(explain(&spec, 100, &setting(4, true)).unwrap().contains("128 rows"));
    }
}
