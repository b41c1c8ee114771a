//! A driver that sees the GPUs of a snapshot and can do nothing with them.

use std::os::fd::{BorrowedFd, OwnedFd};

use tileweave::abi::TwParams;
use tileweave::driver::{
    DevicePtr, Driver, Event, HostWords, Identity, Kind, Launch, PeerClaim, Physical, Place, PlaceInfo, Stream,
};
use tileweave::topology::{Status, Topology};
use tileweave::{Error, Result};

/// GPUs in the order of their ordinals, which need not be a topology's; UUIDs as CUDA gives them.
#[derive(Debug)]
pub struct SnapshotDriver(pub Topology);

/// What a driver says of these GPUs of a machine, in this order.
pub fn seen(machine: &Topology, gpus: &[usize]) -> Topology {
    let mut seen = machine.clone();
    seen.gpus = gpus.iter().map(|gpu| machine.gpus[*gpu].clone()).collect();
    for gpu in &mut seen.gpus {
        if let Some(bytes) = gpu.uuid.strip_prefix("MIG-") {
            gpu.uuid = format!("GPU-{bytes}");
        }
    }
    seen.links.clear();
    for (from, a) in gpus.iter().enumerate() {
        for (to, b) in gpus.iter().enumerate().filter(|(to, _)| *to != from) {
            let mut link = machine.link(*a, *b).unwrap().clone();
            (link.from, link.to) = (from, to);
            seen.links.push(link);
        }
    }
    seen
}

fn cannot<T>() -> Result<T> {
    Err(Error::Unavailable {
        what: "this machine".into(),
        reason: "it is a snapshot".into(),
    })
}

impl Driver for SnapshotDriver {
    fn kind(&self) -> Kind {
        Kind::Cuda
    }
    fn device_count(&self) -> usize {
        self.0.gpus.len()
    }
    fn place_info(&self, place: Place) -> Result<PlaceInfo> {
        let gpu = &self.0.gpus[place.device];
        Ok(PlaceInfo {
            name: gpu.name.clone(),
            compute_capability: gpu.compute_capability,
            sms: gpu.sms.expect("a machine with a driver knows its SMs"),
            shared_per_cta: 227 << 10,
            hopper: gpu.compute_capability.0 == 9,
        })
    }
    fn version(&self) -> String {
        "the driver's own version".into()
    }
    fn identity(&self, device: usize) -> Result<Identity> {
        let gpu = &self.0.gpus[device];
        Ok(Identity {
            uuid: gpu.uuid.clone(),
            pci: gpu.pci.clone(),
            memory_bytes: gpu.memory_bytes,
        })
    }
    fn peer_claim(&self, from: usize, to: usize) -> Result<PeerClaim> {
        let link = self.0.link(from, to).expect("a pair");
        Ok(PeerClaim {
            access: link.read == Status::Yes && link.write == Status::Yes,
            atomics: link.atomics == Status::Yes,
        })
    }
    fn multicast_claim(&self, device: usize) -> Result<bool> {
        Ok(self.0.gpus[device].multicast == Status::Yes)
    }

    fn stream_create(&self, _: Place) -> Result<Stream> {
        cannot()
    }
    fn stream_destroy(&self, _: Stream) -> Result<()> {
        cannot()
    }
    fn stream_place(&self, _: Stream) -> Result<Place> {
        cannot()
    }
    fn stream_wait(&self, _: Stream, _: std::time::Duration) -> Result<bool> {
        cannot()
    }
    fn host_words(&self, _: Place) -> Result<HostWords> {
        cannot()
    }
    fn host_words_free(&self, _: HostWords) -> Result<()> {
        cannot()
    }
    fn stream_synchronize(&self, _: Stream) -> Result<()> {
        cannot()
    }
    fn event_create(&self, _: Place) -> Result<Event> {
        cannot()
    }
    fn event_done(&self, _: Event) -> Result<bool> {
        cannot()
    }
    fn event_destroy(&self, _: Event) -> Result<()> {
        cannot()
    }
    fn event_record(&self, _: Event, _: Stream) -> Result<()> {
        cannot()
    }
    fn stream_wait_event(&self, _: Stream, _: Event) -> Result<()> {
        cannot()
    }
    fn event_elapsed_ms(&self, _: Event, _: Event) -> Result<Option<f64>> {
        cannot()
    }
    fn alloc(&self, _: Place, _: usize) -> Result<DevicePtr> {
        cannot()
    }
    fn free_async(&self, _: DevicePtr, _: Stream) -> Result<()> {
        cannot()
    }
    fn copy_in(&self, _: DevicePtr, _: &[u8], _: Stream) -> Result<()> {
        cannot()
    }
    fn copy_out(&self, _: &mut [u8], _: DevicePtr, _: Stream) -> Result<()> {
        cannot()
    }
    fn fill(&self, _: DevicePtr, _: u8, _: usize, _: Stream) -> Result<()> {
        cannot()
    }
    fn peek(&self, _: &mut [u8], _: DevicePtr) -> Result<()> {
        cannot()
    }
    fn poke(&self, _: DevicePtr, _: &[u8]) -> Result<()> {
        cannot()
    }
    fn copy_device(&self, _: DevicePtr, _: DevicePtr, _: usize, _: Stream) -> Result<()> {
        cannot()
    }
    fn physical_granularity(&self, _: Place) -> Result<usize> {
        cannot()
    }
    fn physical_create(&self, _: Place, _: usize) -> Result<Physical> {
        cannot()
    }
    fn physical_map(&self, _: Physical, _: usize, _: &[Place]) -> Result<DevicePtr> {
        cannot()
    }
    fn physical_unmap(&self, _: DevicePtr, _: usize) -> Result<()> {
        cannot()
    }
    fn physical_release(&self, _: Physical) -> Result<()> {
        cannot()
    }
    fn physical_export(&self, _: Physical) -> Result<OwnedFd> {
        cannot()
    }
    fn physical_import(&self, _: BorrowedFd<'_>, _: Place, _: usize) -> Result<Physical> {
        cannot()
    }
    fn load_kernels(&self, _: Place) -> Result<()> {
        cannot()
    }
    fn ctas_per_sm(&self, _: &str, _: Launch, _: Place) -> Result<u32> {
        cannot()
    }
    fn launch(&self, _: &str, _: Launch, _: &TwParams, _: Stream) -> Result<()> {
        cannot()
    }
}
