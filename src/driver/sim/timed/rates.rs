//! A described machine in the clock's units: picoseconds, and picoseconds a byte.
//!
//! What a description does not tell is a constant here, of SMs and memory systems in general, each with its reason. None of
//! them was fitted to a row of a table.

use super::self_c::CostsC;
use crate::machines::{Description, Kind};
use crate::route::constants::HBM_PART;

/// Picoseconds of a nanosecond, and of a microsecond.
pub(super) const NS: u64 = 1_000;
pub(super) const US: u64 = 1_000_000;

/// Clocks of a CTA's or a named barrier, from the last arrival on (arXiv 1804.06826 has 22 to 35 for bar.sync).
const BARRIER: u64 = 30;
/// Clocks from an mbarrier's last arrival until a waiting warp goes on: a poll of shared memory, and a wake-up.
const MBARRIER: u64 = 40;
/// Clocks of an access to the other CTA of a cluster: 180 by arXiv 2402.13499, SM to SM on Hopper.
const CLUSTER: u64 = 180;
/// Clocks of a load from shared memory: 29 on Hopper by arXiv 2402.13499.
const SHARED: u64 = 29;
/// Clocks of an mma m16n8k16: 33 on Ampere and Hopper by arXiv 2402.13499.
const MMA: u64 = 33;
/// Clocks of a wgmma behind its last product until its sums may be read: 32 at the least by arXiv 2402.13499.
const WGMMA: u64 = 32;
/// Clocks that TMA takes more than an ordinary load, to look at the map and make addresses: about 170 by arXiv 2402.13499.
const TMA: u64 = 170;
/// Bytes a clock that an SM takes from the L2, and that it gives (CUDA's metrics count 64 a clock).
const SM_PORT: f64 = 64.0;
/// What a GPU has on its way to peers before a store waits: with it, 400 GB/s are kept up over a microsecond.
const POSTED_BYTES: f64 = 512e3;
/// Between two polls a thread sleeps some tens of nanoseconds.
pub(super) const NAP: u64 = 40 * NS;

/// Of a node.
#[derive(Debug, Clone)]
pub(super) struct Rates {
    pub costs: CostsC,
    pub barrier: u64,
    pub mbarrier: u64,
    pub cluster: u64,
    pub tma: u64,
    /// ps a byte.
    pub port: f64,
    pub l2: f64,
    pub hbm: f64,
    pub l2_latency: u64,
    pub hbm_latency: u64,
    pub l2_bytes: u64,
    /// ps a byte of one GPU's links in one direction, all together.
    pub link: f64,
    /// The same to one peer: more, where links lead to single peers.
    pub pair: f64,
    /// A word, one way: of a ping-pong's way, what the look that finds it does not take.
    pub link_latency: u64,
    /// Of a release, behind stores to peers.
    pub fence: u64,
    pub atomic: u64,
    /// How long a GPU's links may be behind before a store waits.
    pub posted: u64,
    pub launch: u64,
    /// Shared memory of an SM, in bytes.
    pub sm_shared: u32,
    /// Whether it has TMA and wgmma as the Hopper kernels use them.
    pub hopper: bool,
}

impl Rates {
    pub fn new(node: &Description) -> Rates {
        let (compute, memory, link) = (&node.compute, &node.memory, &node.link);
        let cycle = 1e6 / compute.clock_mhz.value;
        let cycles = |n: u64| (n as f64 * cycle) as u64;
        let ns = |value: f64| (value * 1e3) as u64;
        let us = |value: f64| (value * 1e6) as u64;
        let per_byte = |gb_per_s: f64| 1e3 / gb_per_s;
        // Four tensor cores an SM, in 1/1024 ps an operation.
        let tensor = compute.bf16_tflops.value * compute.sustained_part.value;
        let flop = f64::from(compute.sms.value) * 4.0 / tensor * 1024.0;
        let whole = per_byte(link.achieved_gb_per_s.value);
        let pair = match link.kind {
            Kind::NvLink => whole * (f64::from(node.gpus) - 1.0),
            Kind::NvSwitch | Kind::Pcie | Kind::Shared => whole,
        };
        let hopper = matches!(node.gpu.as_str(), "H100" | "H200" | "H800");
        Rates {
            costs: CostsC {
                cycle: cycle.round() as u64,
                shared_byte: (cycle / memory.shared_bytes_per_clock.value * 1024.0) as u64,
                shared_latency: cycles(SHARED),
                mma_flop: (flop / compute.mma_sync_part.value) as u64,
                wgmma_flop: flop as u64,
                mma_latency: cycles(MMA),
                wgmma_latency: cycles(WGMMA),
            },
            barrier: cycles(BARRIER),
            mbarrier: cycles(MBARRIER),
            cluster: cycles(CLUSTER),
            tma: cycles(TMA),
            port: cycle / SM_PORT,
            l2: per_byte(memory.l2_gb_per_s.value),
            hbm: per_byte(memory.hbm_gb_per_s.value * HBM_PART),
            l2_latency: ns(memory.l2_latency_ns.value),
            hbm_latency: ns(memory.hbm_latency_ns.value),
            l2_bytes: (memory.l2_mb.value * 1e6) as u64,
            link: whole,
            pair,
            link_latency: us(link.latency_us.value + link.switch_us.value)
                .saturating_sub(ns(memory.l2_latency_ns.value) + NAP / 2),
            fence: us(link.fence_us.value),
            atomic: us(link.atomic_us.value),
            posted: (POSTED_BYTES * whole) as u64,
            launch: us(node.host.launch_us.value),
            sm_shared: if hopper { 228 << 10 } else { 164 << 10 },
            hopper,
        }
    }
}
