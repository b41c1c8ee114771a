//! The schedules of `csrc/schedule`, on the host: every element has one block, every block one slot, and no two blocks
//! share a slot. The counts that the orders take are the host's (`src/op/staging.rs`); here they are counted out again.

use proptest::prelude::*;
use std::collections::HashSet;
// Linked for the schedules compiled into it.
use tileweave as _;

#[repr(C)]
struct ScatterOrder {
    rows: u32,
    cols: u32,
    chunk: u32,
    panel: u32,
    world: u32,
    rank: u32,
    tile_m: u32,
    tile_n: u32,
    tiles_n: u32,
    slots: u32,
}

#[repr(C)]
struct GatherOrder {
    rows: u32,
    cols: u32,
    chunk: u32,
    panel: u32,
    world: u32,
    rank: u32,
    tile_m: u32,
    tile_n: u32,
    tiles_n: u32,
    row_blocks: u32,
    piece: u32,
    cluster: u32,
}

#[repr(C)]
struct WaveOrder {
    rows: u32,
    cols: u32,
    panel: u32,
    world: u32,
    grid: u32,
    tile_m: u32,
    tile_n: u32,
    tiles_n: u32,
    tiles: u32,
    wave_slots: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Position {
    who: u32,
    slot: u32,
    extra: u32,
    row: u32,
    col: u32,
    rows: u32,
    cols: u32,
}

unsafe extern "C" {
    fn tw_schedule_chunk(rows: u32, chunk: u32, rank: u32, begin: *mut u32, end: *mut u32);
    fn tw_schedule_split(k: u32, splits: u32, s: u32, begin: *mut u32, end: *mut u32);
    fn tw_schedule_scatter_at(order: *const ScatterOrder, q: u32, f: u32) -> Position;
    fn tw_schedule_waves_at(order: *const WaveOrder, wave: u32, cta: u32) -> Position;
    fn tw_schedule_waves_group(order: *const WaveOrder, wave: u32, number: u32, count: u32) -> u32;
    fn tw_schedule_waves_of_owner(order: *const WaveOrder, wave: u32, group: u32, owner: u32) -> Position;
    fn tw_schedule_gather_at(order: *const GatherOrder, q: u32, f: u32) -> Position;
    fn tw_schedule_gather_piece(order: *const GatherOrder, q: u32, source: u32, b: u32, i: u32) -> Position;
}

/// `[begin, end)` of `rank`, by the kernels' rule.
fn chunk(rows: u32, chunk: u32, rank: u32) -> (u32, u32) {
    let (mut begin, mut end) = (0, 0);
    // SAFETY: both pointers are to live locals; the function writes them and nothing else.
    unsafe { tw_schedule_chunk(rows, chunk, rank, &mut begin, &mut end) };
    (begin, end)
}

/// Range `s` of `splits`, by the kernels' rule.
fn split(k: u32, splits: u32, s: u32) -> (u32, u32) {
    let (mut begin, mut end) = (0, 0);
    // SAFETY: both pointers are to live locals; the function writes them and nothing else.
    unsafe { tw_schedule_split(k, splits, s, &mut begin, &mut end) };
    (begin, end)
}

/// Marks a block's elements; each may be marked once.
fn cover(seen: &mut [u8], cols: u32, p: &Position) {
    for row in p.row..p.row + p.rows {
        for col in p.col..p.col + p.cols {
            seen[(row * cols + col) as usize] += 1;
        }
    }
}

fn sizes() -> impl Strategy<Value = (u32, u32, u32, u32, (u32, u32))> {
    let tile = prop_oneof![Just((4, 8)), Just((1, 16)), Just((16, 2))];
    (0u32..90, 0u32..40, 1u32..=16, 1u32..4, tile)
}

#[test]
fn chunks_are_torch_chunks() {
    for rows in 0..70u32 {
        for world in 1..=16 {
            let step = rows.div_ceil(world);
            let mut next = 0;
            for rank in 0..world {
                let (begin, end) = chunk(rows, step, rank);
                assert_eq!((begin, end), ((rank * step).min(rows), ((rank + 1) * step).min(rows)));
                assert_eq!(begin, next);
                next = end;
            }
            assert_eq!(next, rows);
        }
    }
    // Sums that do not fit 32 bits.
    assert_eq!(chunk(u32::MAX, u32::MAX, 15), (u32::MAX, u32::MAX));
    assert_eq!(chunk(u32::MAX - 1, 1 << 31, 1), (1 << 31, u32::MAX - 1));
}

/// The ranges of K follow each other, cover it, begin at whole steps, differ by a step at most, and none is empty.
#[test]
fn splits_cut_k_evenly() {
    for k in (1..2000u32).chain([4096, 28671, 28672, (1 << 31) - 1]) {
        let steps = k.div_ceil(64);
        for splits in (1..=16).filter(|splits| *splits <= steps) {
            let mut next = 0;
            for s in 0..splits {
                let (begin, end) = split(k, splits, s);
                // Counted again: step i is of range floor(((i + 1) splits - 1) / steps), the first that ends behind it.
                let of = |step: u32| ((u64::from(step) + 1) * u64::from(splits) - 1) / u64::from(steps);
                assert_eq!((begin, begin % 64), (next, 0), "{k} {splits}");
                assert!(
                    of(begin / 64) == u64::from(s) && of((end - 1) / 64) == u64::from(s),
                    "{k} {splits} {s}"
                );
                let length = (end - begin).div_ceil(64);
                assert!(
                    length == steps / splits || length == steps.div_ceil(splits),
                    "{k} {splits} {s}"
                );
                next = end;
            }
            assert_eq!(next, k);
        }
    }
    assert_eq!(split(0, 1, 0), (0, 0));
    assert_eq!((split(1100, 4, 0), split(1100, 4, 3)), ((0, 256), (832, 1100)));
}

proptest! {
    #[test]
    fn scatter((rows, cols, world, panel_tiles, (tile_m, tile_n)) in sizes(), cluster in 1u32..=2) {
        let chunk_rows = rows.div_ceil(world);
        let panel = panel_tiles * tile_m * cluster;
        let panels = chunk_rows.div_ceil(panel).max(1);
        let mut owners_slots = HashSet::new();
        for rank in 0..world {
            let tiles_n = cols.div_ceil(tile_n);
            let slots = panel.min(chunk_rows).div_ceil(tile_m).next_multiple_of(cluster) * tiles_n;
            let positions = world * slots;
            let order = ScatterOrder { rows, cols, chunk: chunk_rows, panel, world, rank, tile_m, tile_n, tiles_n, slots };
            let mut seen = vec![0u8; (rows * cols) as usize];
            let mut first_owner = None;
            for q in 0..panels {
                for f in 0..positions {
                    // SAFETY: `order` is live and f < positions.
                    let p = unsafe { tw_schedule_scatter_at(&order, q, f) };
                    prop_assert!(p.slot < slots && p.who < world);
                    first_owner.get_or_insert(p.who);
                    // Own blocks last.
                    prop_assert_eq!(p.who == rank, f >= positions - slots);
                    // A pair has one owner and one column; where its first has no rows, neither has its second.
                    if cluster == 2 && f % 2 == 1 {
                        // SAFETY: as above.
                        let first = unsafe { tw_schedule_scatter_at(&order, q, f - 1) };
                        prop_assert_eq!((first.who, first.col), (p.who, p.col));
                        prop_assert!(first.rows > 0 || p.rows == 0);
                    }
                    if p.rows == 0 {
                        continue;
                    }
                    let (begin, end) = chunk(rows, chunk_rows, p.who);
                    prop_assert!(p.row >= begin && p.row + p.rows <= end && p.rows <= tile_m && p.cols <= tile_n);
                    cover(&mut seen, cols, &p);
                    // Every rank means the same block by (owner, round, slot).
                    let key = (p.who, q, p.slot);
                    let block = (p.row, p.col, p.rows, p.cols);
                    if rank == 0 {
                        prop_assert!(owners_slots.insert((key, block)));
                    } else {
                        prop_assert!(owners_slots.contains(&(key, block)));
                    }
                }
            }
            prop_assert!(seen.iter().all(|n| *n == 1));
            if positions > 0 {
                prop_assert_eq!(first_owner, Some((rank + 1) % world));
            }
        }
    }

    #[test]
    fn waves((rows, cols, world, panel, (tile_m, tile_n)) in sizes(), grid in 1u32..9, cluster in 1u32..=2) {
        let tiles_n = cols.div_ceil(tile_n);
        let grid = grid * cluster;
        let tiles = rows.div_ceil(tile_m).next_multiple_of(cluster) * tiles_n;
        let waves = tiles.div_ceil(grid);
        let wave_slots = grid.div_ceil(world);
        let (slots, result_slots) = (panel.min(waves) * wave_slots, panel.min(waves) * grid);
        let order = WaveOrder { rows, cols, panel, world, grid, tile_m, tile_n, tiles_n, tiles, wave_slots };
        let mut seen = vec![0u8; (rows * cols) as usize];
        let (mut partials, mut results) = (HashSet::new(), HashSet::new());
        let mut owned = vec![0; world as usize];
        for wave in 0..waves {
            for cta in 0..grid {
                // SAFETY: `order` is live, wave < waves and cta < grid.
                let p = unsafe { tw_schedule_waves_at(&order, wave, cta) };
                if p.rows == 0 {
                    prop_assert!(wave * grid + cta >= tiles || (cluster == 2 && cta % 2 == 1));
                    continue;
                }
                cover(&mut seen, cols, &p);
                prop_assert!(p.slot < slots && p.extra < result_slots && p.who < world);
                prop_assert!(partials.insert((wave / panel, p.who, p.slot)), "two blocks in one slot");
                prop_assert!(results.insert((wave / panel, p.extra)), "two results in one slot");
                owned[p.who as usize] += 1;
            }
        }
        prop_assert!(seen.iter().all(|n| *n == 1));
        // CTAs that only reduce: each block of a wave is in one's group, where its owner and every other rank find it.
        let takers = panel * 3 % 7 + 1;
        for wave in 0..waves {
            let mut groups = Vec::new();
            for number in 0..takers {
                // SAFETY: `order` is live, number < takers.
                let first = unsafe { tw_schedule_waves_group(&order, wave, number, takers) };
                for group in (first..wave_slots).step_by(takers as usize) {
                    // In turn, over the waves of a round.
                    prop_assert_eq!((wave % panel * wave_slots + group) % takers, number);
                    groups.push(group);
                }
            }
            groups.sort();
            prop_assert_eq!(groups, (0..wave_slots).collect::<Vec<_>>());
            let mut found = HashSet::new();
            for (group, owner) in (0..wave_slots).flat_map(|group| (0..world).map(move |owner| (group, owner))) {
                // SAFETY: `order` is live, wave < waves and owner < world.
                let p = unsafe { tw_schedule_waves_of_owner(&order, wave, group, owner) };
                prop_assert_eq!(p.who, owner);
                if p.rows > 0 {
                    prop_assert!(found.insert((p.who, p.slot, p.extra, p.row, p.col)));
                }
            }
            for cta in 0..grid {
                // SAFETY: as above.
                let p = unsafe { tw_schedule_waves_at(&order, wave, cta) };
                prop_assert!(p.rows == 0 || found.remove(&(p.who, p.slot, p.extra, p.row, p.col)));
            }
            prop_assert!(found.is_empty());
        }
        // In every wave a rank owns at most ceil(grid / P) blocks, and over P waves no rank more than another by a wave.
        let most = *owned.iter().max().unwrap_or(&0);
        prop_assert!(most <= waves * grid.div_ceil(world));
    }

    #[test]
    fn gather((rows, cols, world, panel_tiles, (tile_m, tile_n)) in sizes(), piece in 1u32..20, cluster in 1u32..=2) {
        let chunk_rows = rows.div_ceil(world);
        let panel = panel_tiles * tile_m;
        let panels = chunk_rows.div_ceil(panel).max(1);
        let piece = piece.min(tile_m);
        for rank in 0..world {
            let tiles_n = cols.div_ceil(tile_n);
            let row_blocks = panel.min(chunk_rows).div_ceil(tile_m);
            let positions = world * row_blocks.next_multiple_of(cluster) * tiles_n;
            let order = GatherOrder {
                rows,
                cols,
                chunk: chunk_rows,
                panel,
                world,
                rank,
                tile_m,
                tile_n,
                tiles_n,
                row_blocks,
                piece,
                cluster,
            };
            let mut seen = vec![0u8; (rows * cols) as usize];
            let mut pushed = vec![0u8; (rows * cols) as usize];
            for q in 0..panels {
                for f in 0..positions {
                    // SAFETY: `order` is live and f < positions.
                    let p = unsafe { tw_schedule_gather_at(&order, q, f) };
                    prop_assert!(p.extra == p.slot * tile_m);
                    // Own rows first.
                    prop_assert_eq!(p.who == rank, f < positions / world);
                    if p.rows == 0 {
                        continue;
                    }
                    prop_assert!(p.slot < row_blocks);
                    // A tile's rows are one source's, and lie in that source's panel where `extra` says.
                    let (begin, end) = chunk(rows, chunk_rows, p.who);
                    prop_assert!(p.row >= begin && p.row + p.rows <= end);
                    prop_assert_eq!(p.row, begin + q * panel + p.extra);
                    cover(&mut seen, cols, &p);
                }
                for (b, i) in (0..row_blocks).flat_map(|b| (0..tile_m.div_ceil(piece)).map(move |i| (b, i))) {
                    // SAFETY: `order` is live; this rank's pieces.
                    let p = unsafe { tw_schedule_gather_piece(&order, q, rank, b, i) };
                    prop_assert!(p.rows <= piece && p.who == rank);
                    prop_assert_eq!(p.extra, b * tile_m + i * piece);
                    cover(&mut pushed, cols, &p);
                }
            }
            prop_assert!(seen.iter().all(|n| *n == 1));
            let (begin, end) = chunk(rows, chunk_rows, rank);
            for (i, n) in pushed.iter().enumerate() {
                let row = i as u32 / cols.max(1);
                prop_assert_eq!(u32::from(*n), u32::from(row >= begin && row < end));
            }
        }
    }
}
