//! How large a heap must be, before there is a group or a machine.

use super::config::{gemm_kernel, kernel, splits_of};
use super::heuristics::Setting;
use super::nccl::scratch_of_nccl;
use super::splits::product_bytes;
use super::staging::{MAX_GRID, Staging};
use super::tiling::{Sizes, Tiling};
use super::{Op, OpSpec};
use crate::error::{Error, Result};
use crate::memory::layout::{Layout, smallest};
use crate::route::{Path, Want};

/// What operations need of a heap to run in one round each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Need {
    half: u64,
    signals: u64,
    scratch: u64,
}

impl Need {
    fn add(&mut self, staging: Staging) {
        self.half = self.half.max(staging.bytes.saturating_mul(staging.units));
        self.signals = self.signals.max(staging.signals.saturating_mul(staging.units));
    }

    fn met_by(&self, layout: &Layout) -> bool {
        self.half <= layout.staging_half
            && self.signals <= layout.signals_count()
            && self.scratch <= layout.scratch_bytes
    }
}

/// The smallest heap in which every spec runs in one round at every M, on any machine that keeps at least `world` CTAs
/// of a rank resident beside those that only reduce (with fewer, all-reduces may take several rounds).
pub(crate) fn heap_bytes(specs: &[OpSpec], world: usize, one_shot_bytes: usize) -> Result<usize> {
    if !(1..=crate::abi::TW_MAX_RANKS as usize).contains(&world) {
        return Err(Error::bad_argument("world", world, "1 to 16 ranks"));
    }
    let mut need = Need::default();
    for spec in specs {
        spec.check()?;
        add(&mut need, spec, world, one_shot_bytes as u64);
    }
    smallest(world, one_shot_bytes, |layout| need.met_by(layout)).ok_or_else(|| {
        let what = format!(
            "{} operations on {world} ranks, one-shot up to {one_shot_bytes} bytes",
            specs.len()
        );
        Error::bad_argument("specs", what, "operations whose staging fits a device")
    })
}

/// NCCL stages nothing in the heap; what lies between it and a GEMM does.
fn add_nccl(need: &mut Need, spec: &OpSpec, world: usize, one_shot_bytes: u64) {
    for (hopper, pairs) in [(false, false), (true, false), (true, true)] {
        let setting = Setting {
            world,
            one_shot_bytes,
            hopper,
            pairs,
        };
        let of = |m| (gemm_kernel(spec, m, &setting), splits_of(spec, m, &setting));
        for m in last_of_each(spec.max_m as u64, of) {
            let ((gemm, cluster), splits) = of(m);
            let products = match spec.op.has_gemm() {
                true => product_bytes(Tiling::of_gemm(gemm, cluster, m, spec.n as u64), splits),
                false => 0,
            };
            need.scratch = need.scratch.max(scratch_of_nccl(spec, m, products));
        }
    }
}

fn add(need: &mut Need, spec: &OpSpec, world: usize, one_shot_bytes: u64) {
    if spec.route == Want::Exactly(Path::Nccl) {
        return add_nccl(need, spec, world, one_shot_bytes);
    }
    let unfused = !spec.op.has_gemm() || spec.route == Want::Exactly(Path::Unfused);
    let op = if unfused { spec.op.collective() } else { spec.op };
    let sizes = Sizes::of(spec, world);
    // A plain all-reduce of contiguous operands ignores the rows; of others it does not. The machine is not known yet.
    for (flat, hopper, pairs) in [
        (false, false, false),
        (true, false, false),
        (false, true, false),
        (false, true, true),
    ] {
        let setting = Setting {
            world,
            one_shot_bytes,
            hopper,
            pairs,
        };
        // Within the M of one choice the need grows with M, so each range's last M says it all.
        let choice = |m| {
            let (kernel, on, one_shot) = kernel(spec, op, m, flat, &setting);
            (kernel, on.cluster, one_shot, splits_of(spec, m, &setting))
        };
        for m in last_of_each(spec.max_m as u64, choice) {
            let (_, on, one_shot) = kernel(spec, op, m, flat, &setting);
            let splits = splits_of(spec, m, &setting);
            if unfused && spec.op.has_gemm() {
                let (gemm, cluster) = gemm_kernel(spec, m, &setting);
                let gemm = Tiling::of_gemm(gemm, cluster, m, spec.n as u64);
                let products = product_bytes(gemm, splits);
                need.scratch = need.scratch.max(products.saturating_add(sizes.scratch(spec, m)));
            }
            if one_shot {
                if op.has_gemm() {
                    need.scratch = need.scratch.max(product_bytes(on, splits));
                }
                continue;
            }
            let bytes = sizes.tile(on.tile, spec.dtype);
            // Only the waves of an all-reduce depend on the grid, which only the machine tells.
            let (tiles, world_u64) = (on.tiles().max(on.cluster), world as u64);
            let grids = match op {
                // In whole clusters.
                Op::GemmAllReduce | Op::AllReduce => {
                    let least = (world_u64 - world_u64 % on.cluster).max(on.cluster);
                    tiles.min(least)..=tiles.min(MAX_GRID as u64)
                }
                _ => 1..=1,
            };
            for grid in grids {
                need.add(on.staging(op, world, grid as u32, bytes, sizes.row));
            }
        }
    }
}

/// The last M of each run of equal `key`s over `0..=max`, where each key has one run.
pub(crate) fn last_of_each<K: PartialEq>(max: u64, key: impl Fn(u64) -> K) -> Vec<u64> {
    last_of_each_from(0, max, key)
}

/// The same over `begin..=max`.
pub(crate) fn last_of_each_from<K: PartialEq>(mut begin: u64, max: u64, key: impl Fn(u64) -> K) -> Vec<u64> {
    let mut lasts = Vec::new();
    loop {
        let here = key(begin);
        if key(max) == here {
            lasts.push(max);
            return lasts;
        }
        // `low` has the key, `high` has not.
        let (mut low, mut high) = (begin, max);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if key(middle) == here {
                low = middle
            } else {
                high = middle
            }
        }
        lasts.push(low);
        begin = high;
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Facts;
    use super::super::config::tests::facts;
    use super::super::kernel::Kernel;
    use super::*;
    use crate::dtype::{DType, Wire};

    #[test]
    fn runs() {
        assert_eq!(last_of_each(0, |_| 7), [0]);
        assert_eq!(
            last_of_each(100, |m| m.clamp(31, 80)),
            (31..=80).map(|m| if m == 80 { 100 } else { m }).collect::<Vec<_>>()
        );
        assert_eq!(last_of_each(9, |m| m > 8), [8, 9]);
    }

    /// Every spec, at every M, in one round, on machines of many sizes.
    #[test]
    fn a_heap_of_this_size_holds_everything_at_once() {
        let mut checked = 0;
        for op in Op::ALL {
            for (n, k, max_m) in [
                (1, 1, 1),
                (65, 40, 333),
                (512, 100, 2100),
                (4096, 8, 700),
                (0, 0, 0),
                (7, 0, 5000),
                (1280, 8192, 300),
            ] {
                for dtype in [DType::Bf16, DType::F32] {
                    for world in [1, 2, 3, 8, 16] {
                        for path in [Path::Fused, Path::Unfused] {
                            if path == Path::Fused && !op.has_gemm() {
                                continue;
                            }
                            let k = if op.has_gemm() { k } else { 0 };
                            let spec = OpSpec::new(op, n, k, max_m, dtype)
                                .wire(Wire::F32)
                                .route(Want::Exactly(path));
                            let bytes = heap_bytes(std::slice::from_ref(&spec), world, 65536).unwrap();
                            let layout = Layout::new(bytes, world, 65536).unwrap();
                            for ctas_of_sm in [world as u32, world as u32 + 1, 2 * world as u32 + 1, 132, 264] {
                                let ctas = Kernel::all_clusters()
                                    .map(|k| (k, ctas_of_sm - ctas_of_sm % k.1))
                                    .collect();
                                let facts = Facts {
                                    layout,
                                    hopper: ctas_of_sm % 2 == 0,
                                    ctas,
                                    ..facts(world, bytes, ctas_of_sm)
                                };
                                for m in [0, 1, 2, 64, 255, 256, 300, 333, 700, 2048, 2100, 5000] {
                                    if m <= max_m as u64 {
                                        one_round(&facts, &spec, path, m);
                                        checked += 1;
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
        assert!(checked > 5000);
    }

    fn one_round(facts: &Facts, spec: &OpSpec, path: Path, m: u64) {
        for flat in [false, true] {
            let (config, op) = match path {
                Path::Fused => (facts.fused(spec, m).unwrap(), spec.op),
                _ => (facts.unfused(spec, m, flat).unwrap(), spec.op.collective()),
            };
            if config.one_shot {
                continue;
            }
            let flat = flat && !spec.op.has_gemm();
            let (_, on, _) = kernel(spec, op, m, flat, &facts.setting());
            let sizes = Sizes::of(spec, facts.world);
            let grid = on.work(op, facts.world).min(config.grid_limit as u64) as u32;
            let staging = on.staging(op, facts.world, grid, sizes.tile(on.tile, spec.dtype), sizes.row);
            assert!(
                staging.units_in(&facts.layout) == staging.units,
                "{spec} m {m} grid {grid}: {staging:?} {:?}",
                facts.layout
            );
        }
    }

    #[test]
    fn near_what_it_must_be() {
        // Two halves of M * N partials and as much scratch as a half's half, for a reduce-scatter on 8 ranks.
        let spec = OpSpec::new(Op::GemmReduceScatter, 4096, 512, 8192, DType::Bf16);
        let bytes = heap_bytes(&[spec], 8, 65536).unwrap() as f64;
        let half = 8192.0 * 4096.0 * 2.0;
        assert!((2.5..2.6).contains(&(bytes / half)), "{}", bytes / half);
    }

    #[test]
    fn unusable_worlds_and_sizes() {
        assert_eq!(
            heap_bytes(&[], 17, 0).unwrap_err().to_string(),
            "world is 17: expected 1 to 16 ranks"
        );
        assert!(heap_bytes(&[], 0, 0).is_err());
        let spec = OpSpec::new(Op::GemmAllReduce, 8, 1 << 31, 8, DType::Bf16);
        assert!(heap_bytes(&[spec], 2, 0).is_err());
        assert!(heap_bytes(&[], 2, usize::MAX).is_err());
    }
}
