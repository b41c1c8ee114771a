//! What an operation takes on each path, in microseconds: a small alpha-beta model. All of it is arithmetic on
//! [`constants`](super::constants) and a [`Machine`], nothing is measured: predicted, all of it.
//!
//! ```text
//! gemm      pipeline + max(tiles' flops in whole waves of SMs, operands over HBM)
//! unfused   launch + gemm + launch + session + bytes / link + steps
//! fused     launch + session + steps + max(gemm' + last wave's bytes, first wave + bytes)
//! NCCL      launch + library's gemm + the best of rings, trees and in-switch (`nccl.rs`)
//! ```
//!
//! gemm' is the GEMM in the fused kernel's blocks: of few rows a rank they are half empty. The first tiles leave when the
//! first wave ends, and the last ones when the last does: so the longer of the two hides the other but for one wave. Every
//! rate of a link divides and every latency adds, so a slower link never makes anything faster, and a faster one nothing
//! slower.

use super::Exchange;
use super::constants::{HBM_PART, OVERHEADS};
use super::machine::Machine;
use super::nccl;
use crate::abi;
use crate::dtype::DType;
use crate::op::Op;
use crate::op::heuristics::LEAST_CHUNK;

/// An operation at one M, as one rank computes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// The operation.
    pub op: Op,
    /// Global rows.
    pub m: u64,
    /// Columns of the rank's GEMM; of a plain collective, columns.
    pub n: u64,
    /// Depth of the rank's GEMM; 0 of a plain collective.
    pub k: u64,
    /// Type of the operands.
    pub dtype: DType,
    /// Type in which partials travel.
    pub wire: DType,
}

/// How a message gets there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// Who moves.
    pub exchange: Exchange,
    /// An all-reduce by one exchange of packets.
    pub one_shot: bool,
}

/// GB/s are 10^3 bytes a microsecond.
pub(super) fn over(bytes: f64, gb_per_s: f64) -> f64 {
    bytes / (gb_per_s * 1e3)
}

impl Work {
    fn elements(&self) -> f64 {
        let cols = if self.op == Op::AllGatherGemm { self.k } else { self.n };
        self.m as f64 * cols as f64
    }

    /// Bytes of the matrix that the collective moves.
    pub fn message(&self) -> f64 {
        self.elements()
            * if self.op.reduces() {
                self.wire.size()
            } else {
                self.dtype.size()
            } as f64
    }

    /// Bytes of the message that packets would carry: rows padded to whole ones, but for a plain collective's, which
    /// are one.
    pub fn packet_bytes(&self) -> u64 {
        let pad = |values: u64| values.next_multiple_of(u64::from(abi::TW_PACKET_COLUMNS));
        let values = if self.op.has_gemm() {
            self.m.saturating_mul(pad(self.n))
        } else {
            pad(self.m.saturating_mul(self.n))
        };
        values.saturating_mul(self.wire.size() as u64)
    }

    /// Bytes that a rank moves over its link in the busier direction.
    fn traffic(&self, world: usize, by: Transport) -> f64 {
        let (world, message) = (world as f64, self.message());
        let others = (world - 1.0) / world;
        match self.op.collective() {
            // Half of a packet is its tags.
            Op::AllReduce if by.one_shot => 2.0 * (world - 1.0) * message,
            // The switch fetches everybody's part of what a rank owns, and hands out the sums.
            Op::AllReduce if by.exchange == Exchange::InSwitch => {
                message + self.elements() * self.dtype.size() as f64 / world
            }
            Op::AllReduce => others * (message + self.elements() * self.dtype.size() as f64),
            _ => others * message,
        }
    }

    /// The same with as many rows as a fused kernel's blocks have: where ranks own rows, or send them, each rank's begin new
    /// blocks, of 128 rows, or of 64 where a rank has fewer.
    fn in_blocks(&self, world: usize) -> Work {
        let (world, chunk) = (world as u64, self.m.div_ceil(world as u64));
        let high = if chunk < LEAST_CHUNK { 64 } else { 128 };
        let m = match self.op {
            Op::GemmReduceScatter | Op::AllGatherGemm => world.saturating_mul(chunk.next_multiple_of(high)),
            _ => self.m,
        };
        Work { m, ..*self }
    }

    /// The GEMM's time on `sms` SMs at a part of their peak, and its waves.
    fn gemm(&self, machine: &Machine, sms: u32, part: f64) -> (f64, f64) {
        let class = &machine.class;
        let tflops = if self.dtype == DType::F32 {
            class.f32_tflops
        } else {
            class.tensor_tflops
        };
        // 10^6 flops a microsecond are a TFLOP/s.
        let rate = tflops * 1e6 * part / f64::from(class.sms);
        let (m, n, k) = (self.m as f64, self.n as f64, self.k as f64);
        let sms = f64::from(sms);
        let (waves, flops) = if self.m <= 128 {
            // Cut along K until all SMs have a share; tiles are 64 rows high.
            (1.0, (m / 64.0).ceil() * 64.0 * n * k * 2.0 / sms)
        } else {
            let wide = (m / 128.0).ceil() * (n / 256.0).ceil();
            let (tiles, columns) = if wide >= sms {
                (wide, 256.0)
            } else {
                ((m / 128.0).ceil() * (n / 128.0).ceil(), 128.0)
            };
            let waves = (tiles / sms).ceil();
            (waves, waves * 128.0 * columns * k * 2.0)
        };
        let bytes = (m * k + n * k + m * n) * self.dtype.size() as f64;
        // Ranks of one GPU share its memory.
        let share = (f64::from(machine.sms) / f64::from(class.sms)).min(1.0);
        let hbm = class.hbm_gb_per_s * HBM_PART * share;
        (OVERHEADS.gemm_us + (flops / rate).max(over(bytes, hbm)), waves.max(1.0))
    }

    /// The GEMM alone.
    pub fn gemm_us(&self, machine: &Machine) -> f64 {
        if !self.op.has_gemm() {
            return 0.0;
        }
        OVERHEADS.launch_us + self.gemm(machine, machine.sms, machine.class.our_gemm).0
    }

    /// The vendor's GEMM alone.
    pub fn library_gemm_us(&self, machine: &Machine) -> f64 {
        if !self.op.has_gemm() {
            return 0.0;
        }
        OVERHEADS.launch_us + self.gemm(machine, machine.sms, machine.class.library_gemm).0
    }

    fn link(&self, machine: &Machine, by: Transport) -> Option<(f64, f64)> {
        let way = match by.exchange {
            Exchange::Pull => machine.pull?,
            _ => machine.push,
        };
        // Each step waits for all peers; a pull asks before it gets.
        let steps = match self.op.collective() {
            Op::AllReduce if !by.one_shot => 2.0,
            _ => 1.0,
        };
        let trips = if by.exchange == Exchange::Pull { 2.0 } else { 1.0 };
        let waits = steps * trips * way.latency_us + (steps - 1.0) * OVERHEADS.step_us;
        Some((over(self.traffic(machine.world, by), way.gb_per_s), waits))
    }

    /// Our GEMM, then our collective; of a plain collective, that alone. `None`: this transport does not work here.
    pub fn unfused_us(&self, machine: &Machine, by: Transport) -> Option<f64> {
        let (transfer, waits) = self.link(machine, by)?;
        // Read from and written to device memory around the transfer.
        let around = over(2.0 * self.message(), machine.class.hbm_gb_per_s);
        let collective = OVERHEADS.launch_us + OVERHEADS.session_us + transfer + waits + around;
        Some(self.gemm_us(machine) + collective)
    }

    /// Everything in one kernel, and the SMs of it that only push. `None` of a plain collective, and where this
    /// transport does not work.
    pub fn fused_us(&self, machine: &Machine, by: Transport) -> Option<(f64, u32)> {
        if !self.op.has_gemm() {
            return None;
        }
        let (transfer, waits) = self.link(machine, by)?;
        let with = |pushers: u32, transfer: f64| {
            let sms = machine.sms.saturating_sub(pushers).max(1);
            // Tensor cores lose to what else goes on; a GEMM that waits for its weights does not.
            let part = machine.class.our_gemm / (1.0 + machine.class.fused_loss);
            let (gemm, waves) = self.in_blocks(machine.world).gemm(machine, sms, part);
            let body = if by.one_shot && self.op == Op::GemmAllReduce {
                // A message so small leaves when the whole product is there.
                gemm + transfer
            } else {
                (gemm + transfer / waves).max(gemm / waves + transfer)
            };
            OVERHEADS.launch_us + OVERHEADS.session_us + body + waits
        };
        if self.op != Op::AllGatherGemm || machine.world < 2 {
            return Some((with(0, transfer), 0));
        }
        let bytes = self.traffic(machine.world, by);
        let most = (machine.sms / 4).max(1);
        let split = |pushers: u32| {
            let pushed = over(bytes, OVERHEADS.sm_push_gb_per_s * f64::from(pushers));
            with(pushers, transfer.max(pushed))
        };
        let us = (1..=most).map(split).fold(f64::INFINITY, f64::min);
        // The fewest that come close: the model does not know better than that.
        let pushers = (1..=most).find(|pushers| split(*pushers) <= 1.02 * us).unwrap_or(most);
        // Where a warp of every CTA pushes, no SM is given away; its portable kernels, for few rows, still divide them
        // so.
        Some((if machine.class.gives_sms { us } else { with(0, transfer) }, pushers))
    }

    /// The vendor's GEMM, then NCCL; of a plain collective, NCCL alone. `None` where ranks share a GPU.
    pub fn nccl_us(&self, machine: &Machine) -> Option<f64> {
        Some(self.library_gemm_us(machine) + self.nccl_collective_us(machine)?)
    }

    /// What every rank sends in a ring of so many, and gets: all but its own part, of an all-reduce twice.
    pub fn ring_bytes(&self, world: usize) -> u64 {
        let passes = if self.op.collective() == Op::AllReduce {
            2.0
        } else {
            1.0
        };
        let world = world.max(1) as f64;
        (passes * (world - 1.0) / world * self.elements() * self.dtype.size() as f64) as u64
    }

    /// NCCL's collective alone. `None` where ranks share a GPU, or there is only one.
    pub fn nccl_collective_us(&self, machine: &Machine) -> Option<f64> {
        if machine.gpus < machine.world || machine.world < 2 {
            return None;
        }
        // NCCL reduces in the operands' own type.
        let bytes = self.elements() * self.dtype.size() as f64;
        Some(nccl::collective_us(machine, self.op.collective(), bytes))
    }
}
