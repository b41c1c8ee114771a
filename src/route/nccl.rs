//! What a collective of NCCL takes on one node: what NCCL itself reckons with when it chooses among its ways, and here the
//! best of them counts.
//!
//! ```text
//! ring, tree   call + steps x hop + bytes / rate                   of LL, LL128 and the simple protocol
//! NVLS         call + bytes / rate + fill                          in the switch
//! ```
//!
//! A ring goes around once (reduce-scatter, all-gather) or twice (all-reduce), P - 1 steps each; a tree, which on one node
//! is a chain, P - 1 steps up and as many down. NVLS works on rounds of `channels x P x chunk` bytes in stages, one behind
//! the other: an all-reduce has four (into the switch's buffer, added, sent to all, out of the buffer), the others two. So
//! all stages but one come on top, each as long as a round. NCCL takes smaller chunks for smaller messages, to keep that
//! short (2.30.7, src/enqueue.cc). NCCL's own tuner leaves the fill out, and the published times do not
//! (`docs/prediction.md`).

use super::constants::{NCCL_WAYS, NVLS_CHUNKS, NVLS_US};
use super::machine::Machine;
use super::model::over;
use crate::op::Op;

/// A collective of `bytes`: of an all-gather what every rank has in the end, of a reduce-scatter what it has in the
/// beginning.
pub(super) fn collective_us(machine: &Machine, collective: Op, bytes: f64) -> f64 {
    let rings = without_switch_us(machine, collective, bytes);
    nvls_us(machine, collective, bytes).map_or(rings, |nvls| rings.min(nvls))
}

/// GB/s of a ring of the simple protocol. NVLink never counts as slower than the way through the host.
fn ring_rate(machine: &Machine) -> f64 {
    let host = machine.nccl_host_gb_per_s;
    let part = machine.class.nccl.ring_part;
    machine.nvlink_gb_per_s.map_or(host, |rate| (rate * part).max(host))
}

/// The best of rings and trees; also of one rank, as the part within a node of something larger.
pub fn without_switch_us(machine: &Machine, collective: Op, bytes: f64) -> f64 {
    let nccl = &machine.class.nccl;
    let (world, ring, nvlink) = (
        machine.world as f64,
        ring_rate(machine),
        machine.nvlink_gb_per_s.is_some(),
    );
    let reduces_all = collective == Op::AllReduce;
    let steps = (world - 1.0) * if reduces_all { 2.0 } else { 1.0 };
    let ways = NCCL_WAYS
        .iter()
        .filter(|way| (reduces_all || !way.tree) && (nvlink || !way.nvlink_only));
    let times = ways.map(|way| {
        let most = if way.low_latency {
            nccl.low_latency_gb_per_s
        } else {
            f64::INFINITY
        };
        // Everything goes up a tree and down again; around a ring goes all but a rank's own part.
        let passes = if way.tree { 2.0 } else { steps / world };
        let hop = if nvlink { way.hop_us } else { way.pcie_hop_us };
        way.base_us + steps * hop + over(passes * bytes, (ring * way.part).min(most))
    });
    nccl.call_us + times.fold(f64::INFINITY, f64::min)
}

/// In the switch; `None` where there is none that adds, or nobody to gain by it.
fn nvls_us(machine: &Machine, collective: Op, bytes: f64) -> Option<f64> {
    let nccl = &machine.class.nccl;
    let rate = machine.nvlink_gb_per_s? * nccl.nvls_part;
    if !machine.multicast || rate <= 0.0 || machine.world < 3 {
        return None;
    }
    let world = machine.world as f64;
    let all = f64::from(nccl.nvls_channels) * world;
    let chunk = NVLS_CHUNKS.iter().find(|(chunk, rounds)| bytes >= rounds * all * chunk);
    let round = chunk.map_or(0.0, |(chunk, _)| chunk * all).min(bytes);
    // The rate of an all-reduce counts both its halves; alone, either has half of it, and a rank's own part goes, too.
    let (passes, rate, stages) = match collective {
        Op::AllReduce => (2.0 * (world - 1.0) / world, rate, 4.0),
        _ => (1.0, rate / 2.0 * (world - 1.0) / world, 2.0),
    };
    Some(nccl.call_us + NVLS_US + over(passes * (bytes + (stages - 1.0) * round), rate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::Description;

    fn machine(name: &str, world: usize) -> Machine {
        Machine::described(&Description::named(name).expect("known"), world)
    }

    fn all_reduce(name: &str, world: usize, bytes: f64) -> f64 {
        collective_us(&machine(name, world), Op::AllReduce, bytes)
    }

    /// Small messages are the call and its steps: 6.6 + 14 x 0.6, and 6.6 + 6 x 0.6.
    #[test]
    fn small_messages_are_steps_of_ll() {
        assert!((all_reduce("h100x8", 8, 0.0) - 15.0).abs() < 1e-9);
        assert!((all_reduce("h100x8", 4, 0.0) - 10.2).abs() < 1e-9);
        assert!((collective_us(&machine("h100x8", 8), Op::AllGather, 0.0) - 10.8).abs() < 1e-9);
        // Over PCIe a step takes longer, on Blackwell a call.
        assert!((all_reduce("l40sx4", 4, 0.0) - 12.6).abs() < 1e-9);
        assert!((all_reduce("b200x8", 8, 0.0) - 21.5).abs() < 1e-9);
    }

    /// Bus bandwidth of the largest: NVLS on Hopper, rings where nothing adds.
    #[test]
    fn large_messages_are_bandwidth() {
        let gb = 8.0 * (1u64 << 30) as f64;
        let bus = |name, us: f64| {
            let machine = machine(name, 8);
            gb * 1.75 / us / 1e3 / machine.nvlink_gb_per_s.expect("NVLink")
        };
        let hopper = bus("h100x8", all_reduce("h100x8", 8, gb));
        assert!((1.0..1.06).contains(&hopper), "{hopper}");
        let ampere = bus("a100x8", all_reduce("a100x8", 8, gb));
        assert!((0.78..0.8).contains(&ampere), "{ampere}");
        let scatter = collective_us(&machine("h100x8", 8), Op::ReduceScatter, gb);
        assert!((scatter * 0.824 * 450e3 / gb / 0.875 - 1.0).abs() < 0.01, "{scatter}");
    }

    #[test]
    fn more_bytes_ranks_or_a_slower_link_are_never_faster() {
        for name in Description::names().filter(|name| *name != "h200x1") {
            let node = Description::named(name).expect("known");
            let gpus = node.gpus as usize;
            for collective in [Op::AllReduce, Op::ReduceScatter, Op::AllGather] {
                let mut before = 0.0;
                for power in 8..33 {
                    let bytes = (1u64 << power) as f64;
                    let us = collective_us(&machine(name, gpus), collective, bytes);
                    assert!(us >= before, "{name} {collective} {bytes}: {us} after {before}");
                    before = us;
                    let mut slow = machine(name, gpus);
                    slow.nvlink_gb_per_s = slow.nvlink_gb_per_s.map(|rate| rate / 2.0);
                    assert!(
                        collective_us(&slow, collective, bytes) >= us,
                        "{name} {collective} {bytes}"
                    );
                    slow.nvlink_gb_per_s = None;
                    slow.multicast = false;
                    assert!(
                        collective_us(&slow, collective, bytes) >= us,
                        "{name} {collective} {bytes}"
                    );
                }
            }
        }
    }
}
