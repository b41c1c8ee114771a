//! Multicast objects: who may make, join, bind and map one, and how accesses through the switch are ordered with others.

use tileweave::driver::sim::{Fault, SimConfig, SimNode, Site};
use tileweave::driver::{DevicePtr, Driver, Multicast, Physical, Place, Stream};

use crate::support::{HEAP, STAGING, grid, no_params, place, report};

const UNIT: usize = 64 << 10;

struct Team {
    node: SimNode,
    streams: Vec<Stream>,
    memory: Vec<Physical>,
    heaps: Vec<DevicePtr>,
    object: Multicast,
    at: DevicePtr,
}

fn with_switch(gpus: usize, seed: u64, faults: Vec<Fault>) -> SimNode {
    let config = SimConfig {
        multicast: true,
        faults,
        ..SimConfig::new(gpus, seed)
    };
    SimNode::new(config).unwrap()
}

fn places(gpus: usize) -> Vec<Place> {
    (0..gpus).map(place).collect()
}

impl Team {
    fn new(gpus: usize, seed: u64, faults: Vec<Fault>) -> Team {
        let node = with_switch(gpus, seed, faults);
        let places = places(gpus);
        let object = node.multicast_create(gpus, HEAP).unwrap();
        for place in &places {
            node.multicast_add_device(object, *place).unwrap();
        }
        let make = |place: &Place| node.physical_create(*place, HEAP).unwrap();
        let memory: Vec<Physical> = places.iter().map(make).collect();
        for (place, memory) in places.iter().zip(&memory) {
            node.multicast_bind(object, *place, *memory, 0, HEAP).unwrap();
        }
        let map = |memory: &Physical| node.physical_map(*memory, HEAP, &places).unwrap();
        let heaps: Vec<DevicePtr> = memory.iter().map(map).collect();
        let streams: Vec<Stream> = places.iter().map(|p| node.stream_create(*p).unwrap()).collect();
        for (heap, stream) in heaps.iter().zip(&streams) {
            node.fill(*heap, 0, STAGING as usize, *stream).unwrap();
            node.stream_synchronize(*stream).unwrap();
        }
        let at = node.multicast_map(object, HEAP, &places).unwrap();
        Team {
            node,
            streams,
            memory,
            heaps,
            object,
            at,
        }
    }

    /// `selftest_switch` on every device: whether all found the sums.
    fn sums(&self) -> tileweave::Result<bool> {
        let gpus = self.heaps.len();
        let outs: Vec<DevicePtr> = (0..gpus).map(|d| self.node.alloc(place(d), 1024).unwrap()).collect();
        for (device, out) in outs.iter().enumerate() {
            let mut p = no_params();
            p.group.heap[..gpus].copy_from_slice(&self.heaps);
            (p.group.rank, p.group.world) = (device as u32, gpus as u32);
            (p.group.staging, p.group.deadline_ns) = (STAGING, 10_000_000_000);
            (p.x, p.out) = (self.at, *out);
            self.node
                .launch("selftest_switch", grid(1, 64, 0), &p, self.streams[device])?;
        }
        let want: Vec<u8> = (0..256)
            .flat_map(|i| ((gpus * (gpus - 1) / 2 + gpus * i) as f32).to_le_bytes())
            .collect();
        let mut right = true;
        for (out, stream) in outs.iter().zip(&self.streams) {
            let mut bytes = vec![0; 1024];
            self.node.copy_out(&mut bytes, *out, *stream)?;
            right &= bytes == want;
        }
        Ok(right)
    }

    /// `selftest_switch_at` on device 0.
    fn touch(&self, what: u32, at: DevicePtr) -> tileweave::Result<()> {
        let mut p = no_params();
        (p.k, p.x, p.out) = (what, at, self.node.alloc(place(0), 16).unwrap());
        self.node
            .launch("selftest_switch_at", grid(1, 32, 0), &p, self.streams[0])?;
        self.node.stream_synchronize(self.streams[0])
    }
}

#[test]
fn sums_come_through_on_every_schedule() {
    for seed in 0..40 {
        let gpus = 2 + seed as usize % 7;
        assert!(Team::new(gpus, seed, vec![]).sums().unwrap(), "seed {seed}");
    }
}

#[test]
fn order_left_out_is_caught_on_every_seed() {
    for site in [
        Site::TileRelease,
        Site::TileAcquire,
        Site::TileBarrier,
        Site::TileAcquired,
        Site::SumFence,
        Site::ResultFence,
    ] {
        for seed in 0..10 {
            let caught = match Team::new(3, seed, vec![Fault::Ignore(site)]).sums() {
                Err(tileweave::Error::Simulator { .. }) => true,
                Err(e) => panic!("{site:?}, seed {seed}: {e}"),
                Ok(right) => !right,
            };
            assert!(caught, "{site:?}, seed {seed}");
        }
    }
    let text = report(Team::new(2, 1, vec![Fault::Ignore(Site::SumFence)]).sums());
    assert!(
        text.contains("no alias fence") && text.contains("selftest_switch, CTA 0"),
        "{text}"
    );
}

#[test]
fn addresses_that_are_not_bound_mapped_or_multicast_are_reported() {
    let team = || Team::new(2, 1, vec![]);
    let t = team();
    let text = report(t.touch(2, t.at + STAGING));
    assert!(text.contains("nobody has written"), "{text}");
    for what in [1, 2] {
        let t = team();
        let text = report(t.touch(what, t.heaps[1] + STAGING));
        assert!(text.contains("no multicast address"), "{text}");
        let t = team();
        let text = report(t.touch(what, t.at + HEAP as u64));
        assert!(text.contains("no multicast address"), "{text}");
        let t = team();
        t.node.multicast_unbind(t.object, place(1), 0, HEAP).unwrap();
        let text = report(t.touch(what, t.at + STAGING));
        assert!(text.contains("device 1 has bound no memory"), "{text}");
        let t = team();
        let text = report(t.touch(what, t.at + 8));
        assert!(text.contains("16-byte alignment"), "{text}");
    }
    let t = team();
    let text = report(t.touch(3, t.at));
    assert!(text.contains("outside any allocation"), "{text}");
    let t = team();
    t.node.multicast_unmap(t.at, HEAP).unwrap();
    let at = t.node.multicast_map(t.object, HEAP, &[place(1)]).unwrap();
    let text = report(t.touch(1, at));
    assert!(text.contains("not mapped for its own device"), "{text}");
}

#[test]
fn bad_objects_name_what_is_wrong() {
    let node = SimNode::new(SimConfig::new(2, 0)).unwrap();
    let error = node.multicast_create(2, UNIT).unwrap_err().to_string();
    assert!(error.contains("SimConfig::multicast"), "{error}");

    let node = with_switch(3, 0, vec![]);
    let says = |result: tileweave::Result<()>, part: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(part), "{part:?} in {error:?}");
    };
    says(
        node.multicast_create(4, UNIT).map(drop),
        "devices is 4: expected 2 to 3",
    );
    says(node.multicast_create(1, UNIT).map(drop), "devices is 1");
    says(node.multicast_create(2, UNIT + 1).map(drop), "a multiple of 65536");
    let object = node.multicast_create(2, 2 * UNIT).unwrap();
    let memory = node.physical_create(place(0), 2 * UNIT).unwrap();
    let foreign = node.physical_create(place(1), UNIT).unwrap();
    node.multicast_add_device(object, place(0)).unwrap();
    let shared = Place {
        share: 1,
        shares: 2,
        ..place(0)
    };
    says(node.multicast_add_device(object, shared), "ranks that share a device");
    let bind = |place, memory, offset, bytes| node.multicast_bind(object, place, memory, offset, bytes);
    says(bind(place(0), memory, 0, UNIT), "2 devices added before");
    node.multicast_add_device(object, place(1)).unwrap();
    says(node.multicast_add_device(object, place(2)), "at most 2 devices");
    says(bind(place(0), foreign, 0, UNIT), "memory is 65536 bytes of device 1");
    says(bind(place(1), foreign, 0, 2 * UNIT), "131072 bytes of device 1");
    says(bind(place(2), memory, 0, UNIT), "memory is");
    says(bind(place(0), memory, UNIT, 2 * UNIT), "room in 131072 bytes");
    says(bind(place(0), memory, 100, UNIT), "offset is 100");
    bind(place(0), memory, UNIT, UNIT).unwrap();
    says(bind(place(0), memory, UNIT, UNIT), "has not bound");
    says(bind(place(0), memory, 0, 2 * UNIT), "has not bound");
    says(
        node.multicast_unbind(object, place(1), UNIT, UNIT),
        "what device 1 has bound",
    );
    says(
        node.multicast_map(object, UNIT, &[]).map(drop),
        "the object's size, 131072",
    );
    let at = node.multicast_map(object, 2 * UNIT, &[place(0)]).unwrap();
    says(node.multicast_map(object, 2 * UNIT, &[]).map(drop), "not mapped");
    says(node.multicast_unmap(at, UNIT), "what multicast_map gave");
    node.multicast_release(object).unwrap();
    says(node.multicast_release(object), "was not released");
    node.multicast_unmap(at, 2 * UNIT).unwrap();
}

/// Memory that is given back while it is bound stays until it is not.
#[test]
fn what_is_bound_lives_on() {
    let t = Team::new(2, 3, vec![]);
    for (memory, heap) in t.memory.iter().zip(&t.heaps) {
        t.node.physical_unmap(*heap, HEAP).unwrap();
        t.node.physical_release(*memory).unwrap();
    }
    // Bound, but mapped nowhere: no address of this process stands for it.
    let text = report(t.touch(1, t.at + STAGING));
    assert!(text.contains("not mapped"), "{text}");
    t.node.multicast_unmap(t.at, HEAP).unwrap();
    t.node.multicast_release(t.object).unwrap();
}
