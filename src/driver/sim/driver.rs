//! [`SimNode`]: the driver's calls on the simulated node. They check their arguments, and hand over to the node's thread.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use super::arena::{Arena, GRANULARITY};
use super::character::Faults;
use super::config::{Fault, LaunchHook, LaunchSeen, SimConfig};
use super::launch::{Request, ctas_per_sm, share_of};
use super::machine::CTA_SHARED;
use super::node::Node;
use super::shadow::MAX_THREADS;
use super::shared::{Ask, bad_stream};
use super::stream::{Command, Landing, StreamKey};
use super::table::{Entry, entries};
use crate::abi::TwParams;
use crate::driver::{DevicePtr, Driver, Event, Kind, Launch, Physical, Place, PlaceInfo, Stream, ThreadGuard};
use crate::error::{Error, Result};

/// A simulated node. Its thread, its memory and whatever still runs on it end with it.
pub struct SimNode {
    // First: its thread is joined before the arena, which it uses, can go.
    node: Node,
    arena: Arc<Arena>,
    kernels: HashMap<&'static str, Entry>,
    gpus: usize,
    sms: u32,
    hook: Option<LaunchHook>,
    faults: Mutex<Vec<Fault>>,
}

impl std::fmt::Debug for SimNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimNode")
            .field("gpus", &self.gpus)
            .field("sms", &self.sms)
            .finish_non_exhaustive()
    }
}

impl SimNode {
    /// Starts a node.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a number of devices or SMs out of range or a fault that names a device that is not
    /// there; [`Error::Driver`] where the system does not give addresses or a thread.
    pub fn new(config: SimConfig) -> Result<SimNode> {
        if !(1..=16).contains(&config.gpus) {
            return Err(Error::bad_argument("gpus", config.gpus, "1 to 16"));
        }
        if !(1..=256).contains(&config.sms) {
            return Err(Error::bad_argument("sms", config.sms, "1 to 256"));
        }
        check_faults(&config.faults, config.gpus)?;
        let kernels = entries()?.into_iter().map(|e| (e.name, e)).collect();
        let arena = Arc::new(Arena::new(config.gpus)?);
        let (gpus, sms, hook) = (config.gpus, config.sms, config.launch_hook.clone());
        let faults = Mutex::new(config.faults.clone());
        let node = Node::start(config, arena.clone())?;
        Ok(SimNode {
            node,
            arena,
            kernels,
            gpus,
            sms,
            hook,
            faults,
        })
    }

    /// Plants one more fault, between two launches or under a running kernel.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a device that is not there.
    pub fn plant(&self, fault: Fault) -> Result<()> {
        check_faults(&[fault], self.gpus)?;
        let mut planted = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        planted.push(fault);
        let faults = Faults::new(&planted);
        self.node.shared.ask(|answer| Ask::Plant { faults, answer })
    }

    /// Takes all planted faults away.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the node's thread has ended.
    pub fn clear_faults(&self) -> Result<()> {
        let mut planted = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        planted.clear();
        self.node.shared.ask(|answer| Ask::Plant {
            faults: Faults::default(),
            answer,
        })
    }

    /// A digest of everything the schedule did so far: equal for equal runs.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the node's thread has ended.
    pub fn schedule_digest(&self) -> Result<u64> {
        Ok(self.node.shared.ask(|answer| Ask::State { answer })?.0)
    }

    /// Simulated nanoseconds so far.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the node's thread has ended.
    pub fn simulated_time_ns(&self) -> Result<u64> {
        Ok(self.node.shared.ask(|answer| Ask::State { answer })?.1)
    }

    /// Names of the kernels compiled in.
    pub fn kernels(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.kernels.keys().copied().collect();
        names.sort_unstable();
        names
    }

    fn check_place(&self, place: Place) -> Result<Place> {
        if place.device >= self.gpus {
            return Err(Error::bad_argument(
                "device",
                place.device,
                format!("below {}, the devices present", self.gpus),
            ));
        }
        if place.shares == 0 || place.share >= place.shares {
            let value = format!("{} of {}", place.share, place.shares);
            return Err(Error::bad_argument(
                "share",
                value,
                "a share below the number of shares",
            ));
        }
        if place.shares > self.sms as usize {
            return Err(Error::bad_argument(
                "shares",
                place.shares,
                format!("at most {}, an SM each", self.sms),
            ));
        }
        Ok(place)
    }

    fn sms_of(&self, place: Place) -> u32 {
        share_of(self.sms, place.share, place.shares).len() as u32
    }

    fn entry(&self, kernel: &str) -> Result<Entry> {
        self.kernels
            .get(kernel)
            .copied()
            .ok_or_else(|| Error::bad_argument("kernel", kernel, "a name in csrc/kernels/entries.h"))
    }

    fn check_launch(&self, entry: &Entry, launch: Launch) -> Result<()> {
        if launch.threads == 0 || !launch.threads.is_multiple_of(32) || launch.threads > entry.threads.min(MAX_THREADS)
        {
            let expected = format!(
                "a multiple of 32, at most {} for {}",
                entry.threads.min(MAX_THREADS),
                entry.name
            );
            return Err(Error::bad_argument("threads", launch.threads, expected));
        }
        if launch.shared > CTA_SHARED {
            return Err(Error::bad_argument(
                "shared",
                launch.shared,
                format!("at most {CTA_SHARED} bytes a CTA"),
            ));
        }
        Ok(())
    }

    fn enqueue(&self, stream: Stream, command: Command) -> Result<u64> {
        self.node.shared.lock().enqueue(stream.0, command)
    }

    /// Enqueues a command and blocks until it is done.
    fn run(&self, stream: Stream, command: Command) -> Result<()> {
        let position = self.enqueue(stream, command)?;
        self.node.shared.wait(stream.0, position)
    }

    fn stream_key(&self, stream: Stream) -> Result<StreamKey> {
        self.node
            .shared
            .lock()
            .streams
            .get(&stream.0)
            .map(|h| h.key)
            .ok_or_else(|| bad_stream(stream.0))
    }

    fn check_range(&self, name: &str, ptr: DevicePtr, bytes: usize) -> Result<()> {
        if bytes == 0 || self.arena.lock().find(ptr, bytes as u64).is_some() {
            return Ok(());
        }
        Err(Error::bad_argument(
            name,
            format!("{ptr:#x}"),
            format!("{bytes} bytes inside one allocation of this node"),
        ))
    }
}

fn check_faults(faults: &[Fault], gpus: usize) -> Result<()> {
    for fault in faults {
        let device = match *fault {
            Fault::DropSignals { from, to } => from.max(to),
            Fault::Slow { device, .. } => device,
            Fault::Ignore(_) | Fault::EarlySignal(_) => 0,
        };
        if device >= gpus {
            return Err(Error::bad_argument(
                "fault",
                format!("{fault:?}"),
                format!("devices below {gpus}"),
            ));
        }
    }
    Ok(())
}

impl Driver for SimNode {
    fn kind(&self) -> Kind {
        Kind::Sim
    }

    fn device_count(&self) -> usize {
        self.gpus
    }

    fn place_info(&self, place: Place) -> Result<PlaceInfo> {
        let place = self.check_place(place)?;
        Ok(PlaceInfo {
            name: format!("simulated device {}", place.device),
            compute_capability: (0, 0),
            sms: self.sms_of(place),
            shared_per_cta: CTA_SHARED,
        })
    }

    fn stream_create(&self, place: Place) -> Result<Stream> {
        let place = self.check_place(place)?;
        Ok(Stream(self.node.shared.lock().add_stream(
            place.device,
            place.share,
            place.shares,
        )))
    }

    fn stream_destroy(&self, stream: Stream) -> Result<()> {
        let result = self.run(stream, Command::Close);
        self.node.shared.lock().streams.remove(&stream.0);
        result
    }

    fn stream_synchronize(&self, stream: Stream) -> Result<()> {
        let position = {
            let s = self.node.shared.lock();
            s.streams.get(&stream.0).ok_or_else(|| bad_stream(stream.0))?.enqueued
        };
        self.node.shared.wait(stream.0, position)
    }

    fn event_create(&self, place: Place) -> Result<Event> {
        self.check_place(place)?;
        let mut s = self.node.shared.lock();
        s.next_event += 1;
        let event = s.next_event;
        s.events.insert(event, 0);
        Ok(Event(event))
    }

    fn event_destroy(&self, event: Event) -> Result<()> {
        match self.node.shared.lock().events.remove(&event.0) {
            Some(_) => Ok(()),
            None => Err(bad_event(event)),
        }
    }

    fn event_record(&self, event: Event, stream: Stream) -> Result<()> {
        let mut s = self.node.shared.lock();
        let record = s.next_record + 1;
        if !s.events.contains_key(&event.0) {
            return Err(bad_event(event));
        }
        s.enqueue(stream.0, Command::Record { event: event.0, record })?;
        s.next_record = record;
        s.events.insert(event.0, record);
        Ok(())
    }

    fn stream_wait_event(&self, stream: Stream, event: Event) -> Result<()> {
        let mut s = self.node.shared.lock();
        let record = *s.events.get(&event.0).ok_or_else(|| bad_event(event))?;
        // An event that was never recorded holds nobody up.
        if record > 0 {
            s.enqueue(stream.0, Command::Wait { event: event.0, record })?;
        }
        Ok(())
    }

    fn event_elapsed_ms(&self, start: Event, end: Event) -> Result<Option<f64>> {
        let s = self.node.shared.lock();
        for event in [start, end] {
            s.events.get(&event.0).ok_or_else(|| bad_event(event))?;
        }
        Ok(None)
    }

    fn alloc(&self, place: Place, bytes: usize) -> Result<DevicePtr> {
        self.arena.allocate(self.check_place(place)?.device, bytes)
    }

    fn free_async(&self, ptr: DevicePtr, stream: Stream) -> Result<()> {
        if self.arena.lock().near(ptr).is_none_or(|(start, _)| start != ptr) {
            return Err(Error::bad_argument(
                "ptr",
                format!("{ptr:#x}"),
                "an address that alloc gave",
            ));
        }
        self.enqueue(stream, Command::Free { ptr }).map(drop)
    }

    fn copy_in(&self, dst: DevicePtr, src: &[u8], stream: Stream) -> Result<()> {
        self.check_range("dst", dst, src.len())?;
        self.enqueue(
            stream,
            Command::CopyIn {
                dst,
                data: src.to_vec(),
            },
        )
        .map(drop)
    }

    fn copy_out(&self, dst: &mut [u8], src: DevicePtr, stream: Stream) -> Result<()> {
        self.check_range("src", src, dst.len())?;
        let to = Landing::default();
        self.run(
            stream,
            Command::CopyOut {
                src,
                bytes: dst.len() as u64,
                to: to.clone(),
            },
        )?;
        dst.copy_from_slice(&to.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    fn fill(&self, dst: DevicePtr, byte: u8, bytes: usize, stream: Stream) -> Result<()> {
        self.check_range("dst", dst, bytes)?;
        self.enqueue(
            stream,
            Command::Fill {
                dst,
                byte,
                bytes: bytes as u64,
            },
        )
        .map(drop)
    }

    fn peek(&self, dst: &mut [u8], src: DevicePtr) -> Result<()> {
        self.check_range("src", src, dst.len())?;
        let bytes = dst.len() as u64;
        dst.copy_from_slice(&self.node.shared.ask(|answer| Ask::Peek {
            addr: src,
            bytes,
            answer,
        })?);
        Ok(())
    }

    fn poke(&self, dst: DevicePtr, src: &[u8]) -> Result<()> {
        self.check_range("dst", dst, src.len())?;
        let data = src.to_vec();
        self.node.shared.ask(|answer| Ask::Poke {
            addr: dst,
            data,
            answer,
        })
    }

    fn physical_granularity(&self, place: Place) -> Result<usize> {
        self.check_place(place).map(|_| GRANULARITY)
    }

    fn physical_create(&self, place: Place, bytes: usize) -> Result<Physical> {
        self.arena
            .physical_create(self.check_place(place)?.device, bytes)
            .map(Physical)
    }

    fn physical_map(&self, memory: Physical, bytes: usize, accessors: &[Place]) -> Result<DevicePtr> {
        let mut devices = 0;
        for place in accessors {
            devices |= 1 << self.check_place(*place)?.device;
        }
        self.arena.physical_map(memory.0, bytes, devices)
    }

    fn physical_unmap(&self, ptr: DevicePtr, bytes: usize) -> Result<()> {
        self.arena.physical_unmap(ptr, bytes)
    }

    fn physical_release(&self, memory: Physical) -> Result<()> {
        self.arena.physical_release(memory.0)
    }

    fn physical_export(&self, memory: Physical) -> Result<OwnedFd> {
        self.arena.physical_export(memory.0)
    }

    fn physical_import(&self, fd: BorrowedFd<'_>, place: Place, bytes: usize) -> Result<Physical> {
        self.arena
            .physical_import(fd, self.check_place(place)?.device, bytes)
            .map(Physical)
    }

    fn load_kernels(&self, place: Place) -> Result<()> {
        self.check_place(place).map(drop)
    }

    fn ctas_per_sm(&self, kernel: &str, launch: Launch, place: Place) -> Result<u32> {
        self.check_place(place)?;
        let entry = self.entry(kernel)?;
        self.check_launch(&entry, launch)?;
        Ok(ctas_per_sm(&entry, launch))
    }

    fn launch(&self, kernel: &str, launch: Launch, params: &TwParams, stream: Stream) -> Result<()> {
        let entry = self.entry(kernel)?;
        self.check_launch(&entry, launch)?;
        let StreamKey {
            device, share, shares, ..
        } = self.stream_key(stream)?;
        let place = Place { device, share, shares };
        let room = self.sms_of(place) * ctas_per_sm(&entry, launch);
        if launch.grid == 0 || launch.grid > room {
            let expected = format!(
                "1 to {room}: all CTAs of {kernel} must fit on the place's {} SMs at once",
                self.sms_of(place)
            );
            return Err(Error::bad_argument("grid", launch.grid, expected));
        }
        let mut params = *params;
        if let Some(hook) = &self.hook {
            hook(LaunchSeen { kernel, place, launch }, &mut params);
        }
        self.enqueue(stream, Command::Launch(Box::new(Request { entry, launch, params })))
            .map(drop)
    }

    fn attach_thread(&self) -> ThreadGuard {
        let shared = self.node.shared.clone();
        let thread = shared.attach();
        ThreadGuard(Some(Box::new(move || shared.detach(thread))))
    }

    fn observed_traffic(&self, place: Place) -> Option<(u64, u64)> {
        self.node.shared.lock().traffic.get(place.device).copied()
    }
}

fn bad_event(event: Event) -> Error {
    Error::bad_argument("event", event.0, "a live event of this node")
}
