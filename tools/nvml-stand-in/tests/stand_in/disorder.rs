//! Machines that no one has: links down at one end, ends that are swapped, hidden or absent, fabrics in every state, claims at random. What
//! is read of them agrees with itself all the same, and no path is there that has no links to carry it.

use tileweave::topology::{Ancestor, Fabric, Remote, Source, Status, Topology};

use super::run::{Reading, snapshot};

/// Steele, Lea, Flood: SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn of<T: Clone>(&mut self, choice: &[T]) -> T {
        choice[self.below(choice.len())].clone()
    }
}

fn disorder(machine: &mut Topology, random: &mut Random) {
    let mut ends: Vec<Remote> = machine.gpus.iter().map(|gpu| Remote::Gpu(gpu.pci.clone())).collect();
    ends.extend([
        Remote::Switch,
        Remote::Other,
        Remote::Unknown,
        Remote::Gpu("00000000:ee:00.0".into()),
    ]);
    let completed = |status, clique| Fabric::Completed {
        status,
        cluster: "0".repeat(32),
        clique,
    };
    let fabrics = [
        Fabric::NotStarted,
        Fabric::InProgress,
        completed(0, 0),
        completed(0, 1),
        completed(3, 0),
    ];
    let claims = [Status::Yes, Status::No, Status::Disabled, Status::Unknown];
    for gpu in &mut machine.gpus {
        if random.one_in(4) {
            gpu.fabric = random.of(&fabrics);
        }
        for link in &mut gpu.nvlinks {
            link.active &= !random.one_in(8);
            if random.one_in(8) {
                link.remote = random.of(&ends);
            }
        }
        if random.one_in(6) {
            let kept = random.below(gpu.nvlinks.len() + 1);
            gpu.nvlinks.truncate(kept);
        }
    }
    for link in &mut machine.links {
        if random.one_in(4) {
            (link.read, link.write, link.atomics) = (random.of(&claims), random.of(&claims), random.of(&claims));
        }
        if random.one_in(8) {
            link.ancestor = random.of(&[Ancestor::Internal, Ancestor::Node, Ancestor::Unknown]);
        }
        if random.one_in(8) {
            // What NVML claims of NVLink for the pair; that of the links is worked out from their ends.
            link.nvlink = None;
        }
    }
}

#[test]
fn disorder_is_settled() {
    let mut paths = 0;
    for (index, name) in ["dgx-h100", "hgx-a100-x4", "dgx-1-v100", "gb200-nvl72-tray"]
        .into_iter()
        .enumerate()
    {
        let machine = snapshot(name);
        for seed in 0..40 {
            let mut served = machine.clone();
            disorder(&mut served, &mut Random(seed * 8 + index as u64));
            let alone = Reading::of(served.clone())
                .result()
                .unwrap_or_else(|e| panic!("{name}, {seed}: {e}"));
            assert_eq!(
                (alone.source, alone.gpus.len()),
                (Source::Nvml, machine.gpus.len()),
                "{name}, {seed}"
            );
            paths += alone.links.iter().filter(|link| link.nvlink.is_some()).count();
            for (told, served) in alone.gpus.iter().zip(&served.gpus) {
                // Links may be taken for inactive, never for active.
                assert_eq!(told.nvlinks.len(), served.nvlinks.len());
                assert!(
                    told.nvlinks
                        .iter()
                        .zip(&served.nvlinks)
                        .all(|(told, served)| served.active || !told.active)
                );
            }
            for (told, served) in alone.links.iter().zip(&served.links) {
                assert_eq!(
                    (told.read, told.write, told.atomics),
                    (served.read, served.write, served.atomics)
                );
            }
        }
    }
    // Nor is everything given up.
    assert!(paths > 500, "{paths}");
}
