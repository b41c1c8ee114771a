//! The parameters of a launch: arithmetic on M and addresses, nothing else.

use super::addresses::Addresses;
use super::config::{Config, Facts, kernel};
use super::descriptor::hash;
use super::exchange;
use super::heuristics::Setting;
use super::kernel::{Kernel, Tile};
use super::maps;
use super::operands::Operands;
use super::splits::COUNTER_BYTES;
use super::staging::{Rounds, padded};
use super::tiling::{Sizes, Tiling};
use super::{Axis, Gemm, Mainloop, Op, OpSpec};
use crate::abi::{self, TwDescriptor, TwGroup, TwParams};
use crate::driver::{Launch, TensorMap};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::memory::RawMat;
use crate::route::Path;

/// How many waves a CTA of a two-shot all-reduce pushes before it reduces its first block.
const WINDOW: u32 = 2;

/// Rows of so many bytes in a round go to one peer after the other: what a release costs more for each of them, about two
/// microseconds (docs/clock.md), is then less than what a link takes for them, 2.6 at 400 GB/s. Where every CTA has one block at most,
/// the last peer's rows are waited for whatever the order.
const IN_TURN_BYTES: u64 = 1 << 20;

/// One kernel, ready to be enqueued.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub kernel: Kernel,
    pub launch: Launch,
    pub params: TwParams,
    /// What a Hopper kernel's tensor maps show, in the order of `TwParams`: x, weight, gathered rows, out.
    pub maps: [Option<TensorMap>; 4],
}

impl Step {
    /// `grid` CTAs, of which `agreed` is what all ranks know alike.
    fn new(kernel: Kernel, grid: u32, agreed: u32, mut params: TwParams) -> Step {
        params.desc.grid = agreed;
        params.hash = hash(&params.desc);
        let maps = match kernel.mainloop {
            Mainloop::Hopper => maps::of(kernel, &mut params),
            Mainloop::Portable => [None; 4],
        };
        Step {
            kernel,
            launch: kernel.launch(grid, params.cluster),
            params,
            maps,
        }
    }
}

/// Blocks of a matrix: all, and across. The kernels count them in 32 bits.
fn blocks(on: Tiling) -> Result<(u32, u32)> {
    let tiles = u32::try_from(on.tiles()).ok().filter(|tiles| *tiles < 1 << 31);
    let tiles = tiles.ok_or_else(|| {
        let value = format!("{} x {}, {} blocks", on.rows, on.cols, on.tiles());
        Error::bad_argument("the output", value, "fewer than 2^31 blocks")
    })?;
    Ok((tiles, on.cols.div_ceil(on.tile.1) as u32))
}

/// What a hello says of a kernel's blocks: all that peers deal with. Of a gather that is their rows.
fn agreed_tile(op: Op, kernel: Kernel, on: &Tiling) -> u32 {
    let pairs = if on.cluster > 1 { abi::TW_TILE_PAIRS } else { 0 };
    let mainloop = match kernel.mainloop {
        Mainloop::Hopper => abi::TW_TILE_HOPPER,
        Mainloop::Portable => 0,
    };
    let blocks = match (op, kernel.tile) {
        (Op::AllGatherGemm, Tile::Wide | Tile::Large) => Tile::Large.code(),
        (_, Tile::Slim) => Tile::Small.code(),
        (_, tile) => tile.code() | pairs,
    };
    blocks | mainloop
}

/// The kernels of one launch, in order.
#[derive(Debug)]
pub(crate) struct Steps {
    /// A kernel of this rank alone.
    pub before: Option<Step>,
    /// The kernel that communicates: the operation that the group counts.
    pub main: Step,
    /// A kernel of this rank alone.
    pub after: Option<Step>,
}

/// What a launch is made from.
pub(crate) struct Maker<'a> {
    pub spec: &'a OpSpec,
    pub facts: &'a Facts,
    /// The heap and this rank, as kernels see them.
    pub group: TwGroup,
}

impl Maker<'_> {
    /// The steps of `config` on operands that were checked.
    pub fn steps(&self, config: &Config, a: &Operands<'_>, flat: bool) -> Result<Steps> {
        let given = Addresses::of(a);
        let m = a.m as u64;
        let products = config.product_bytes(self.spec, m);
        let Some(gemm) = config.gemm else {
            let op = if config.path == Path::Fused {
                self.spec.op
            } else {
                self.spec.op.collective()
            };
            return Ok(Steps {
                before: None,
                main: self.main(config, op, m, flat, given)?,
                after: None,
            });
        };
        // The operands that the caller gave decide on the mainloop, as on the fused path: one product, one set of bits.
        let gemm = self.settle(gemm, given)?;
        // The scratch of this rank: what lies between the two kernels, behind the products of splits.
        let scratch = self.scratch() + products;
        if self.spec.op == Op::AllGatherGemm {
            let between = (scratch, padded(self.spec.k as u64, self.spec.dtype.size() as u64));
            let gather = Addresses {
                x: given.x,
                out: between,
                ..Addresses::default()
            };
            let main = self.main(config, Op::AllGather, m, false, gather)?;
            let after = self.gemm(config, m, self.spec.dtype, Addresses { x: between, ..given }, gemm)?;
            return Ok(Steps {
                before: None,
                main,
                after: Some(after),
            });
        }
        let wire = self.spec.wire_dtype(self.facts.world);
        let between = (scratch, padded(self.spec.n as u64, wire.size() as u64));
        let before = self.gemm(
            config,
            m,
            wire,
            Addresses {
                bias: 0,
                out: between,
                ..given
            },
            gemm,
        )?;
        let collective = Addresses {
            x: between,
            weight: (0, 0),
            addend: (0, 0),
            ..given
        };
        let main = self.main(config, self.spec.op.collective(), m, false, collective)?;
        Ok(Steps {
            before: Some(before),
            main,
            after: None,
        })
    }

    /// The GEMM of an unfused `config` alone, into a matrix of the operation's type.
    pub fn gemm_alone(&self, config: &Config, gemm: Kernel, m: u64, operands: [&RawMat; 3]) -> Result<Step> {
        let a = Addresses::of_product(operands);
        self.gemm(config, m, self.spec.dtype, a, self.settle(gemm, a)?)
    }

    /// A GEMM of this rank's own by `kernel`.
    pub fn own_gemm(&self, config: &Config, kernel: Kernel, g: &Gemm<'_>) -> Result<Step> {
        let (a, m) = (Addresses::of_gemm(g), g.out.raw.rows as u64);
        self.gemm(config, m, self.spec.dtype, a, self.settle(kernel, a)?)
    }

    fn params(&self, desc: TwDescriptor, a: Addresses) -> TwParams {
        TwParams {
            group: self.group,
            desc,
            x: a.x.0,
            x_ld: a.x.1,
            weight: a.weight.0,
            weight_ld: a.weight.1,
            bias: a.bias,
            addend: a.addend.0,
            addend_ld: a.addend.1,
            out: a.out.0,
            out_ld: a.out.1,
            residual: a.residual.0,
            residual_ld: a.residual.1,
            gamma: a.gamma,
            saved: a.saved.0,
            saved_ld: a.saved.1,
            panels: 1,
            cluster: 1,
            splits: 1,
            layout: self.spec.layout.code(),
            ..TwParams::default()
        }
    }

    pub(super) fn scratch(&self) -> u64 {
        self.group.heap[self.group.rank as usize] + self.facts.layout.scratch
    }

    /// Where CTAs that share blocks meet: the counters just before the scratch, then products; 0 where none do, or where
    /// there is no room for it (plans have made sure of it): each then computes all of its blocks, to the same bits.
    fn split_space(&self, config: &Config, m: u64) -> u64 {
        match config.product_bytes(self.spec, m) {
            0 => 0,
            bytes if bytes > self.facts.layout.scratch_bytes => 0,
            _ => self.scratch() - COUNTER_BYTES,
        }
    }

    /// `kernel`, or its portable twin where TMA cannot address an operand. A property of this rank's operands alone: what
    /// it sends to peers is the same.
    pub(super) fn settle(&self, kernel: Kernel, a: Addresses) -> Result<Kernel> {
        if kernel.mainloop == Mainloop::Portable {
            return Ok(kernel);
        }
        let element = self.spec.dtype.size() as u64;
        for (name, (ptr, ld)) in [("x", a.x), ("weight", a.weight)] {
            let why = maps::addressable(ptr, ld * element, self.spec.k as u64);
            if let (Err(expected), Some(Mainloop::Hopper)) = (&why, self.spec.mainloop) {
                let value = format!("at {ptr:#x}, rows {} bytes apart", ld * element);
                return Err(Error::bad_argument(name, value, expected.clone()));
            }
            if why.is_err() {
                return Ok(kernel.portable());
            }
        }
        Ok(kernel)
    }

    /// This rank's own GEMM into a matrix of type `output`.
    pub(super) fn gemm(&self, config: &Config, m: u64, output: DType, a: Addresses, gemm: Kernel) -> Result<Step> {
        let (n, k) = (self.spec.n as u64, self.spec.k as u64);
        let desc = TwDescriptor {
            op: abi::TW_GEMM,
            dtype: self.spec.dtype.code(),
            wire: output.code(),
            tile: gemm.tile.code(),
            has_bias: (a.bias != 0) as u32,
            world: self.facts.world as u32,
            m,
            n,
            k,
            epilogue: self.spec.epilogue.code(),
            ..TwDescriptor::default()
        };
        let mut params = self.params(desc, a);
        (params.m, params.n, params.k) = (m as u32, n as u32, k as u32);
        // The portable twin goes by its own tile: nobody else deals with this rank's product.
        let cluster = match gemm.mainloop {
            Mainloop::Hopper => config.clusters.1,
            Mainloop::Portable => 1,
        };
        // The plan made sure of one cluster.
        let resident = self.facts.ctas_of(gemm, cluster).max(cluster) as u64;
        let tiling = Tiling::of_gemm(gemm, cluster, m, n);
        params.cluster = cluster;
        (params.tiles, params.tiles_n) = blocks(tiling)?;
        (params.splits, params.split_space) = (config.splits, self.split_space(config, m));
        let shares = if params.split_space == 0 { 1 } else { config.splits };
        let grid = (tiling.tiles() * shares as u64).clamp(cluster as u64, resident) as u32;
        let grid = grid - grid % cluster;
        Ok(Step::new(gemm, grid, grid, params))
    }

    /// The kernel that communicates.
    fn main(&self, config: &Config, op: Op, m: u64, flat: bool, a: Addresses) -> Result<Step> {
        let (spec, world) = (self.spec, self.facts.world);
        // What the plan settled on, which may allow less than the group does.
        let setting = Setting {
            one_shot_bytes: if config.one_shot { u64::MAX } else { 0 },
            ..self.facts.setting()
        };
        let (chosen, on, one_shot) = kernel(spec, op, m, flat, &setting);
        let kernel = self.settle(chosen, a)?;
        let sizes = Sizes::of(spec, world);
        let work = on.work(op, world);
        // Of computing CTAs, by which blocks are counted.
        let grid = work.min(config.grid_limit as u64) as u32;
        let staging = on.staging(op, world, grid, sizes.tile(on.tile, spec.dtype), sizes.row);
        let rounds = if one_shot {
            let (panel, panels, units) = (1, 1, 0);
            Some(Rounds { panel, panels, units })
        } else {
            staging.rounds(&self.facts.layout)
        };
        // The plan made sure of one unit of every kernel that it chose.
        let rounds = rounds.ok_or_else(|| Error::HeapTooSmall {
            what: format!("{} at M = {m}", kernel.name()),
            need: self.facts.layout.heap_bytes as usize + 1,
            have: self.facts.layout.heap_bytes as usize,
        })?;
        // A flat all-reduce is one of so many elements; what may differ between ranks is 0.
        let is_flat = op == Op::AllReduce && kernel.tile == Tile::Memory && on.rows == 1;
        // Rows that are normalised have their columns even where the all-reduce has not.
        let (desc_m, desc_n) = match op {
            _ if is_flat => (on.cols, if spec.tail.normalises() { spec.n as u64 } else { 0 }),
            Op::AllGatherGemm => (m, 0),
            _ if spec.axis == Axis::Columns => (m, spec.n as u64),
            _ => (m, on.cols),
        };
        let path = match config.path {
            Path::Fused => abi::TW_PATH_FUSED,
            _ => abi::TW_PATH_UNFUSED,
        };
        let (tail, tail_eps) = spec.tail.code();
        let desc = TwDescriptor {
            op: op.code(),
            algorithm: if one_shot {
                abi::TW_ONE_SHOT
            } else {
                abi::TW_TWO_SHOT + exchange::code(config.exchange)
            },
            dtype: spec.dtype.code(),
            wire: sizes.wire.code(),
            tile: agreed_tile(op, chosen, &on) + config.reducers * abi::TW_TILE_REDUCER,
            has_bias: (a.bias != 0) as u32,
            world: world as u32,
            m: desc_m,
            n: desc_n,
            k: if op == Op::AllGatherGemm { spec.k as u64 } else { 0 },
            panel: rounds.panel as u64,
            grid: grid + config.reducers,
            tail,
            tail_eps,
            // Of an unfused one it is the GEMM's.
            epilogue: if op == spec.op {
                spec.epilogue.code()
            } else {
                abi::TW_EPILOGUE_NONE
            },
            axis: spec.axis.code(),
        };
        let mut params = self.params(desc, a);
        params.path = path;
        if spec.axis == Axis::Columns {
            params.columns = spec.n as u32;
        }
        (params.m, params.n) = (on.rows as u32, on.cols as u32);
        params.k = match op {
            _ if op.has_gemm() => spec.k as u32,
            Op::AllGather => on.cols as u32,
            _ => 0,
        };
        if spec.tail.normalises() {
            (params.tail_rows, params.tail_cols) = (m as u32, spec.n as u32);
        }
        params.chunk = on.rows.div_ceil(world as u64) as u32;
        (params.panel, params.panels) = (rounds.panel, rounds.panels);
        // Where a portable twin has a narrower block, of as many rows, nobody else deals with blocks but this rank. (Of
        // all-gather + GEMM, N and with it the blocks across differ between ranks anyway.)
        let on = match kernel.tile == chosen.tile {
            true => on,
            false => Tiling {
                tile: kernel.tile.shape(),
                ..on
            },
        };
        let work = on.work(op, world);
        params.cluster = on.cluster as u32;
        params.piece = on.piece(op, sizes.row) as u32;
        let pushed = u64::from(params.chunk.min(rounds.panel)) * sizes.row;
        let early_rows_help = match op {
            Op::AllGather => true,
            Op::AllGatherGemm => on.blocks_by_rank(world) > u64::from(grid),
            _ => false,
        };
        params.in_turn = u32::from(early_rows_help && pushed >= IN_TURN_BYTES);
        (params.tiles, params.tiles_n) = blocks(on)?;
        (params.slots, params.wave_slots) = (rounds.units * staging.slots as u32, staging.slots as u32);
        if matches!(op, Op::GemmAllReduce | Op::AllReduce) {
            (params.waves, params.result_slots) = (staging.units as u32, rounds.units * grid);
        }
        params.gather_rows = if op == Op::AllGather { on.tile.0 as u32 } else { 0 };
        params.window = WINDOW;
        params.comm_ctas = if op == Op::AllGatherGemm && grid >= 2 {
            // As large a part of this grid as of a full one.
            (grid * config.pushers / config.grid_limit.max(1)).max(1)
        } else {
            0
        };
        // CTAs of a one-shot may share blocks; a two-shot or a gather's compute all splits of theirs.
        let mut launched = grid;
        // The portable twin's CTAs all compute, and reduce what they have computed: peers see no difference.
        if kernel.mainloop == Mainloop::Hopper {
            params.reducers = config.reducers;
            launched += config.reducers;
        }
        if op.has_gemm() {
            params.splits = config.splits;
            if one_shot {
                params.split_space = self.split_space(config, m);
                launched = (work * config.splits as u64).min(config.grid_limit as u64) as u32;
            }
        }
        Ok(Step::new(kernel, launched, grid + config.reducers, params))
    }
}
