//! How busy a clocked node's units were.

use super::Timed;
use super::rates::NS;

/// One kind of unit of a device, over the node's whole time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// The device.
    pub device: usize,
    /// `tensor cores`, `schedulers`, `shared memory`, `L2`, `device memory`, `links out`, `links in`.
    pub unit: &'static str,
    /// How many of them there are.
    pub count: u32,
    /// Nanoseconds that they were busy, all together.
    pub busy_ns: u64,
    /// When the last of them had nothing more to do.
    pub until_ns: u64,
}

impl Timed {
    /// Payload bytes and signal words that left each device for peers.
    pub fn traffic(&self) -> &[(u64, u64)] {
        &self.traffic
    }

    pub fn usage(&self) -> Vec<Usage> {
        let mut all = Vec::new();
        for (device, gpu) in self.gpus.iter().enumerate() {
            let mut add = |unit, units: &mut dyn Iterator<Item = &super::self_c::Unit>| {
                let (mut count, mut busy, mut until) = (0, 0, 0);
                for unit in units {
                    count += 1;
                    busy += unit.busy;
                    until = until.max(unit.free_at);
                }
                all.push(Usage {
                    device,
                    unit,
                    count,
                    busy_ns: busy / NS,
                    until_ns: until / NS,
                });
            };
            add("tensor cores", &mut gpu.sms.iter().flat_map(|sm| &sm.c.tensor));
            add("schedulers", &mut gpu.sms.iter().flat_map(|sm| &sm.c.scheduler));
            add("shared memory", &mut gpu.sms.iter().map(|sm| &sm.c.shared));
            let whole = |ledger: &super::ledger::Ledger| super::self_c::Unit {
                free_at: ledger.until,
                busy: ledger.busy,
            };
            add("L2", &mut std::iter::once(&whole(&gpu.l2)));
            add("device memory", &mut std::iter::once(&whole(&gpu.hbm)));
            add("links out", &mut std::iter::once(&whole(&gpu.out)));
            add("links in", &mut std::iter::once(&whole(&gpu.into)));
        }
        all
    }
}
