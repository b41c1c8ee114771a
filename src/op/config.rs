//! Which kernels carry out an operation at a given M, and in how many rounds.
//!
//! A [`Config`] is a pure function of the spec, M and facts that are equal on every rank (the layout of the heap, how many
//! CTAs are resident on every rank), so that ranks agree without asking. As M grows, each of its parts changes once or
//! twice at most and never back: one-shot gives way to two-shot, the small tile to the large one. Hence few ranges of M, which a
//! plan finds by bisection and keeps in a table. What alone may differ between ranks, with their K, is the number of
//! splits: it falls as M grows, and no other part of a choice looks at it.

use std::collections::HashMap;

use super::exchange::two_shot_only;
use super::heuristics::{self, Setting};
use super::kernel::{Family, Kernel, Tile};
use super::splits::{product_bytes, splits};
use super::staging::{MAX_GRID, largest_wave};
use super::tiling::{Sizes, Tiling};
use super::{Axis, Mainloop, Op, OpSpec};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::memory::layout::{Layout, smallest};
use crate::nccl::NcclPolicy;
use crate::route::{Exchange, Machine, Path};

/// What every rank of a group knows alike.
#[derive(Debug)]
pub(crate) struct Facts {
    pub world: usize,
    pub layout: Layout,
    /// Whether every rank's device has what Hopper kernels need.
    pub hopper: bool,
    /// CTAs of each kernel, in clusters of so many, that are resident at once on every rank, within the group's budget.
    pub ctas: HashMap<(Kernel, u32), u32>,
    /// The ranks' GPUs and links.
    pub machine: Machine,
    /// What becomes of what NCCL does better; `Never` where there is no NCCL.
    pub nccl: NcclPolicy,
    /// Whether the group has communicators of NCCL's; else why not.
    pub communicators: Result<(), String>,
    /// Whether the heaps have a multicast address and sums may be the switch's; else why not.
    pub multicast: Result<(), String>,
}

/// The kernels of one launch, and what bounds their grids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Config {
    /// Where the operation goes; with NCCL there is a `gemm` at most.
    pub path: Path,
    /// The GEMM of an unfused operation.
    pub gemm: Option<Kernel>,
    /// The kernel that communicates; `None` where NCCL does, or the operation is declined.
    pub main: Option<Kernel>,
    /// Whether `main` sends everything to everyone.
    pub one_shot: bool,
    /// How `main` gets values from rank to rank.
    pub exchange: Exchange,
    /// The largest grid of `main`, but for `reducers`.
    pub grid_limit: u32,
    /// CTAs of `main` that only reduce, beyond those that compute.
    pub reducers: u32,
    /// CTAs of a full grid that only push (all-gather + GEMM of the portable mainloop).
    pub pushers: u32,
    /// CTAs that take blocks together, in `main` and in `gemm`.
    pub clusters: (u32, u32),
    /// Parts that the GEMM's K is cut into. Ranks may differ in it: nothing that they must agree on depends on it.
    pub splits: u32,
}

impl Config {
    /// Of a path on which no kernel of ours communicates.
    pub fn without_kernels(path: Path) -> Config {
        Config {
            path,
            gemm: None,
            main: None,
            one_shot: false,
            exchange: Exchange::Push,
            grid_limit: 0,
            pushers: 0,
            reducers: 0,
            clusters: (1, 1),
            splits: 1,
        }
    }
}

impl Config {
    /// Bytes of the products that CTAs which share a block keep at the start of the scratch, at `m`; 0 where none share.
    pub fn product_bytes(&self, spec: &OpSpec, m: u64) -> u64 {
        let shares = self
            .gemm
            .or(self.main.filter(|main| main.family == Family::GemmAllReduceOneShot));
        shares.map_or(0, |kernel| {
            let cluster = if self.gemm.is_some() {
                self.clusters.1
            } else {
                self.clusters.0
            };
            product_bytes(Tiling::of_gemm(kernel, cluster, m, spec.n as u64), self.splits)
        })
    }
}

/// The GEMM of the unfused path, and its cluster.
pub(crate) fn gemm_kernel(spec: &OpSpec, m: u64, setting: &Setting) -> (Kernel, u32) {
    let choice = heuristics::choose(spec, None, m, setting);
    let kernel = Kernel {
        family: Family::Gemm,
        dtype: spec.dtype,
        tile: choice.tile,
        mainloop: choice.mainloop,
    };
    (kernel, choice.cluster)
}

/// Parts that K of `spec`'s GEMM is cut into at `m`; 1 without one.
pub(crate) fn splits_of(spec: &OpSpec, m: u64, setting: &Setting) -> u32 {
    if spec.op.has_gemm() && heuristics::choose(spec, None, m, setting).tile.shape().0 <= 64 {
        splits(m, spec.n as u64, spec.k as u64, spec.dtype)
    } else {
        1
    }
}

/// Rows and columns of the matrix that `op` works on, at `m`. Matrices that end up side by side are moved one below the other,
/// each as wide as the widest.
fn matrix(spec: &OpSpec, op: Op, m: u64, world: usize) -> (u64, u64) {
    match spec.axis {
        Axis::Columns => (m * world as u64, spec.n.div_ceil(world) as u64),
        Axis::Rows if spec.op == Op::AllGatherGemm && op == Op::AllGather => (m, spec.k as u64),
        Axis::Rows => (m, spec.n as u64),
    }
}

/// The kernel that does `op`, for `spec` itself or for its collective, the matrix it works on, and whether in one exchange.
pub(crate) fn kernel(spec: &OpSpec, op: Op, m: u64, flat: bool, setting: &Setting) -> (Kernel, Tiling, bool) {
    let world = setting.world;
    let of = |tile: Tile, mainloop: Mainloop, cluster: u32, one_shot: bool| {
        let kernel = Kernel {
            family: Family::of(op, one_shot),
            dtype: spec.dtype,
            tile,
            mainloop,
        };
        let (rows, cols) = matrix(spec, op, m, world);
        let on = Tiling::of(op, kernel, cluster, rows, cols, flat, world);
        (kernel, on, one_shot)
    };
    let portable = |tile, one_shot| of(tile, Mainloop::Portable, 1, one_shot);
    if !op.has_gemm() {
        let one_shot = portable(Tile::Memory, true);
        let small = one_shot.1.message(Sizes::of(spec, world).wire) <= setting.one_shot_bytes;
        return if op == Op::AllReduce && small && !two_shot_only(spec) {
            one_shot
        } else {
            portable(Tile::Memory, false)
        };
    }
    let choice = heuristics::choose(spec, Some(op), m, setting);
    of(
        choice.tile,
        choice.mainloop,
        choice.cluster,
        heuristics::one_shot(spec, m, setting),
    )
}

impl Facts {
    /// What choices depend on.
    pub fn setting(&self) -> Setting {
        let one_of_each = |cluster: u32| {
            let mut hopper = Kernel::all().filter(|kernel| kernel.mainloop == Mainloop::Hopper);
            hopper.all(|kernel| self.ctas_of(kernel, cluster) > 0)
        };
        Setting {
            world: self.world,
            one_shot_bytes: self.layout.one_shot_bytes,
            hopper: self.hopper && one_of_each(1),
            pairs: one_of_each(2),
        }
    }

    /// An explicit mainloop is had or refused, never replaced.
    pub(super) fn check_mainloop(&self, spec: &OpSpec, m: u64, path: Path, setting: &Setting) -> Result<()> {
        let (Some(Mainloop::Hopper), true) = (spec.mainloop, spec.op.has_gemm()) else {
            return Ok(());
        };
        let refused = heuristics::hopper(spec, m, setting)
            .map_err(str::to_string)
            .and_then(|()| heuristics::addressable_k(spec));
        refused.map_err(|reason| Error::RouteUnavailable {
            path,
            reason: format!("no Hopper mainloop, which was asked for: {reason}"),
        })
    }

    pub(super) fn too_small(&self, spec: &OpSpec, what: &str, enough: impl Fn(&Layout) -> bool) -> Error {
        let layout = &self.layout;
        Error::HeapTooSmall {
            what: format!("{what} of {spec}"),
            need: smallest(self.world, layout.one_shot_bytes as usize, enough).unwrap_or(usize::MAX),
            have: layout.heap_bytes as usize,
        }
    }

    /// CTAs of `kernel` that are resident on every rank, in clusters of `cluster`.
    pub fn ctas_of(&self, kernel: Kernel, cluster: u32) -> u32 {
        self.ctas.get(&(kernel, cluster)).copied().unwrap_or(0)
    }

    /// CTAs of a kernel of a rank alone: as many as are resident of a plain collective, which has as many threads and is compiled
    /// for as many CTAs an SM. They wait for nobody, so no more depends on it than how work is dealt.
    pub fn local_ctas(&self) -> u32 {
        let like = Kernel {
            family: Family::AllReduce,
            dtype: DType::F32,
            tile: Tile::Memory,
            mainloop: Mainloop::Portable,
        };
        self.ctas_of(like, 1).max(1)
    }

    pub(super) fn resident(&self, kernel: Kernel, cluster: u32, path: Path) -> Result<u32> {
        // Ranks whose operands TMA cannot address run the portable twin, in the same grid.
        match self.ctas_of(kernel, cluster).min(self.ctas_of(kernel.portable(), 1)) {
            ctas if ctas > 0 => Ok(ctas.min(MAX_GRID)),
            _ => Err(Error::RouteUnavailable {
                path,
                reason: format!("not one CTA of {} is resident on every rank", kernel.name()),
            }),
        }
    }

    /// The communicating kernel of `op` for `spec`, if the heap has room for its smallest round.
    fn main(&self, spec: &OpSpec, op: Op, m: u64, flat: bool, path: Path, setting: &Setting) -> Result<Config> {
        let (kernel, on, one_shot) = kernel(spec, op, m, flat, setting);
        let exchange = self.exchange(spec, op, path)?;
        let cluster = on.cluster as u32;
        let resident = self.resident(kernel, cluster, path)?;
        let splits = splits_of(spec, m, setting);
        let reducers = heuristics::reducers(spec, kernel);
        if reducers > 0 && resident < reducers + cluster {
            let most = resident.saturating_sub(cluster) / 2 * 2;
            let (name, what) = (kernel.name(), if cluster == 1 { "one" } else { "a pair" });
            let expected = format!(
                "at most {most}: {resident} CTAs of {name} are resident on every rank, and {what} must compute"
            );
            return Err(Error::bad_argument("reducers", reducers, expected));
        }
        let mut grid_limit = resident - reducers;
        if !one_shot {
            let sizes = Sizes::of(spec, self.world);
            let bytes = sizes.tile(on.tile, spec.dtype);
            let fits = |layout: &Layout| on.staging(op, self.world, cluster, bytes, sizes.row).units_in(layout) > 0;
            if !fits(&self.layout) {
                return Err(self.too_small(spec, &format!("the smallest round of {}", kernel.name()), fits));
            }
            if matches!(op, Op::GemmAllReduce | Op::AllReduce) {
                grid_limit = largest_wave(grid_limit, self.world as u64, bytes, &self.layout);
            }
        } else if op.has_gemm() {
            let need = product_bytes(on, splits);
            let fits = |layout: &Layout| need <= layout.scratch_bytes;
            if !fits(&self.layout) {
                let what = format!("the products of {splits} splits of {}", kernel.name());
                return Err(self.too_small(spec, &what, fits));
            }
        }
        // Clusters are whole. Ranks of a gather agree on them as on the rows of a block.
        grid_limit -= grid_limit % cluster;
        Ok(Config {
            path,
            gemm: None,
            main: Some(kernel),
            one_shot,
            exchange,
            grid_limit,
            reducers,
            pushers: 0,
            clusters: (cluster, 1),
            splits,
        })
    }

    /// One kernel for everything.
    pub fn fused(&self, spec: &OpSpec, m: u64) -> Result<Config> {
        self.fused_in(spec, m, &self.setting())
    }

    /// The GEMM, then the collective; or the collective alone, of one row of elements where `flat`.
    pub fn unfused(&self, spec: &OpSpec, m: u64, flat: bool) -> Result<Config> {
        self.unfused_in(spec, m, flat, &self.setting())
    }

    /// [`Facts::fused`] in a setting that may allow less than this group's.
    pub fn fused_in(&self, spec: &OpSpec, m: u64, setting: &Setting) -> Result<Config> {
        if !spec.op.has_gemm() {
            let reason = format!("{} has no GEMM to fuse with: ask for unfused", spec.op);
            return Err(Error::RouteUnavailable {
                path: Path::Fused,
                reason,
            });
        }
        self.check_mainloop(spec, m, Path::Fused, setting)?;
        self.main(spec, spec.op, m, false, Path::Fused, setting)
    }

    /// [`Facts::unfused`] in a setting that may allow less than this group's.
    pub fn unfused_in(&self, spec: &OpSpec, m: u64, flat: bool, setting: &Setting) -> Result<Config> {
        let (op, flat) = (spec.op.collective(), flat && !spec.op.has_gemm());
        let mut config = self.main(spec, op, m, flat, Path::Unfused, setting)?;
        if spec.op.has_gemm() {
            self.check_mainloop(spec, m, Path::Unfused, setting)?;
            let (gemm, cluster) = gemm_kernel(spec, m, setting);
            self.resident(gemm, cluster, Path::Unfused)?;
            config.gemm = Some(gemm);
            config.clusters.1 = cluster;
            let between = Sizes::of(spec, self.world).scratch(spec, m);
            let need = config.product_bytes(spec, m).saturating_add(between);
            let fits = |layout: &Layout| need <= layout.scratch_bytes;
            if !fits(&self.layout) {
                return Err(self.too_small(spec, "the unfused path's scratch", fits));
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
pub(crate) mod tests;
