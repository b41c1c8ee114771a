//! What an operation sends, told before it is launched: by who owns which part of the result, not by what kernels count.

use super::config::{Config, Facts, kernel};
use super::heuristics::Setting;
use super::tiling::{Sizes, Tiling};
use super::{Axis, Op, OpSpec, chunk};
use crate::route::{Exchange, Path};

/// Rows of blocks in a band of the order in which they are taken (`csrc/schedule/raster.h`).
const BAND: u64 = 16;

/// Elements of the blocks that `rank` owns of an all-reduce in two exchanges (`csrc/schedule/waves.h`): of wave w, CTA c
/// takes block w * grid + c, which is rank (c + w) mod P's.
fn owned(on: &Tiling, grid: u64, world: u64, rank: u64) -> u64 {
    let tiles = on.tiles();
    let across = on.cols.div_ceil(on.tile.1);
    let down = tiles.checked_div(across).unwrap_or(0);
    let size = |t: u64| {
        let (band, within) = (t / (BAND * across), t % (BAND * across));
        let height = BAND.min(down - band * BAND);
        let (row, col) = (band * BAND + within % height, within / height);
        let part = |whole: u64, tile: u64, at: u64| whole.saturating_sub(at * tile).min(tile);
        part(on.rows, on.tile.0, row) * part(on.cols, on.tile.1, col)
    };
    let owner = |t: u64| (t % grid + t / grid) % world;
    (0..tiles).filter(|t| owner(*t) == rank).map(size).sum()
}

impl Facts {
    /// Payload bytes that leave `rank`'s memory in one launch of `config`, operands without gaps.
    pub fn bytes_sent(&self, spec: &OpSpec, config: &Config, m: u64, rank: usize) -> Option<u64> {
        let op = match config.path {
            Path::Fused => spec.op,
            Path::Unfused => spec.op.collective(),
            Path::Nccl | Path::Decline => return None,
        };
        if self.world == 1 {
            return Some(0);
        }
        let flat = op == spec.op && !op.has_gemm();
        let setting = Setting {
            one_shot_bytes: if config.one_shot { u64::MAX } else { 0 },
            ..self.setting()
        };
        let (_, on, one_shot) = kernel(spec, op, m, flat, &setting);
        let (world, peers) = (self.world as u64, self.world as u64 - 1);
        let (wire, output) = (Sizes::of(spec, self.world).wire.size() as u64, spec.dtype.size() as u64);
        let own_rows = chunk(m as usize, self.world, rank).len() as u64;
        let all = m * spec.n as u64;
        Some(match op {
            Op::AllGather if spec.axis == Axis::Columns => {
                peers * m * chunk(spec.n, self.world, rank).len() as u64 * output
            }
            Op::AllGather => peers * own_rows * on.cols * output,
            Op::AllGatherGemm => peers * own_rows * spec.k as u64 * output,
            Op::ReduceScatter | Op::GemmReduceScatter => (m - own_rows) * spec.n as u64 * wire,
            Op::AllReduce | Op::GemmAllReduce if one_shot => peers * all * wire,
            Op::AllReduce | Op::GemmAllReduce => {
                let grid = on.work(op, self.world).min(config.grid_limit as u64);
                let own = owned(&on, grid, world, rank as u64);
                match config.exchange {
                    // Partials go to the switch, also the owner's; one result comes back from it.
                    Exchange::InSwitch => all * wire + own * output,
                    Exchange::Push | Exchange::Pull => (all - own) * wire + peers * own * output,
                }
            }
        })
    }
}
