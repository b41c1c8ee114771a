//! A described node as a route sees it: the same figures that a topology and a probe would tell.
//!
//! What a description does not have, since it is of libraries and kernels rather than of machines (what part of the peak
//! a GEMM reaches, what NCCL costs), is the class's.

use super::constants::{CLASSES, Class, NCCL_PCIE_PART, SIMULATED};
use super::machine::{LinkKind, Machine, Way};
use crate::machines::{Description, Kind};

impl Machine {
    /// `world` ranks of a described node: one a GPU, all on one where it is shared. Beyond its GPUs there are none:
    /// `world` counts as 1 at least, and as the node's GPUs at most.
    pub fn described(node: &Description, world: usize) -> Machine {
        let shared = node.link.kind == Kind::Shared;
        let world = if shared { world } else { world.min(node.gpus as usize) }.max(1);
        let class = class(node);
        let part = match node.link.kind {
            // As many links to each peer: to fewer peers, fewer links.
            Kind::NvLink => (world - 1) as f64 / (node.gpus as f64 - 1.0),
            Kind::Shared => 1.0 / world as f64,
            Kind::NvSwitch | Kind::Pcie => 1.0,
        };
        // One rank sends to nobody, at the rate of its memory.
        let achieved = if world > 1 {
            node.link.achieved_gb_per_s.value * part
        } else {
            class.hbm_gb_per_s / 2.0
        };
        let way = Way {
            gb_per_s: achieved,
            latency_us: node.link.latency_us.value + node.link.switch_us.value,
            measured: false,
        };
        let nvlink = matches!(node.link.kind, Kind::NvSwitch | Kind::NvLink) && world > 1;
        Machine {
            world,
            gpus: if shared { 1 } else { world },
            class,
            sms: if shared {
                (class.sms / world as u32).max(1)
            } else {
                class.sms
            },
            link: match node.link.kind {
                _ if world < 2 => LinkKind::SameGpu,
                Kind::NvSwitch => LinkKind::NvSwitch,
                Kind::NvLink => LinkKind::NvLink,
                Kind::Pcie => LinkKind::Pcie,
                Kind::Shared => LinkKind::SameGpu,
            },
            push: way,
            pull: Some(way),
            nvlink_gb_per_s: nvlink.then_some(node.link.gb_per_s.value * part),
            nccl_host_gb_per_s: class.pcie_gb_per_s * NCCL_PCIE_PART,
            multicast: node.link.multicast.value && world > 1,
            slow: None,
            untried: world > 1 && !shared,
            obstacles: Vec::new(),
        }
    }
}

/// The class's figures, those that the description has replaced by its own.
fn class(node: &Description) -> Class {
    let class = CLASSES.iter().find(|class| class.name == node.gpu).copied();
    let class = class.unwrap_or(SIMULATED);
    let link = &node.link;
    let achieved = link.achieved_gb_per_s.value;
    let nvlink = matches!(link.kind, Kind::NvSwitch | Kind::NvLink);
    Class {
        sms: node.compute.sms.value,
        tensor_tflops: node.compute.bf16_tflops.value,
        f32_tflops: node.compute.f32_fma_tflops.value,
        hbm_gb_per_s: node.memory.hbm_gb_per_s.value,
        pcie_gb_per_s: if link.kind == Kind::Pcie {
            achieved
        } else {
            class.pcie_gb_per_s
        },
        nvlink_part: if nvlink {
            achieved / link.gb_per_s.value
        } else {
            class.nvlink_part
        },
        ..class
    }
}

#[cfg(test)]
mod tests {
    use super::super::constants::{LATENCIES, OVERHEADS};
    use super::*;

    fn all() -> Vec<Description> {
        Description::all().expect("files")
    }

    /// One table of constants: a description says what the routes' own row of that GPU says.
    #[test]
    fn descriptions_and_route_constants_agree() {
        for node in all() {
            let own = CLASSES
                .iter()
                .find(|class| class.name == node.gpu)
                .expect("a known class");
            let described = class(&node);
            // Rates that are parts of one another, to a rounding.
            let parts = Class {
                nvlink_part: own.nvlink_part,
                ..described
            };
            assert_eq!(&parts, own, "{}", node.name);
            let off = described.nvlink_part / own.nvlink_part - 1.0;
            assert!(off.abs() < 1e-12, "{}: {off}", node.name);
            let latency = match node.link.kind {
                Kind::NvSwitch => LATENCIES.switch_us,
                Kind::NvLink => LATENCIES.nvlink_us,
                Kind::Pcie => LATENCIES.pcie_us,
                Kind::Shared => LATENCIES.local_us,
            };
            assert_eq!(Machine::described(&node, 2).push.latency_us, latency, "{}", node.name);
            assert_eq!(node.host.launch_us.value, OVERHEADS.launch_us, "{}", node.name);
        }
    }

    #[test]
    fn ranks_of_a_described_node() {
        let of = |name: &str, world| Machine::described(&Description::named(name).expect("known"), world);
        let eight = of("h100x8", 8);
        assert_eq!(
            (eight.world, eight.gpus, eight.sms, eight.link),
            (8, 8, 132, LinkKind::NvSwitch)
        );
        assert_eq!((eight.nvlink_gb_per_s, eight.multicast), (Some(450.0), true));
        assert_eq!(of("h100x8", 16).world, 8);
        assert_eq!(of("h100x8", 0).world, 1);
        // 6 of 18 links lead to one peer.
        let two = of("h100x4", 2);
        assert_eq!((two.nvlink_gb_per_s, two.push.gb_per_s), (Some(150.0), 120.0));
        assert_eq!(of("l40sx4", 4).nvlink_gb_per_s, None);
        // Virtual ranks divide SMs and memory.
        let shared = of("h200x1", 4);
        assert_eq!((shared.gpus, shared.sms, shared.push.gb_per_s), (1, 33, 600.0));
        let assumed = Machine::assumed(shared.class, 4, true);
        assert_eq!((assumed.sms, assumed.push), (shared.sms, shared.push));
    }
}
