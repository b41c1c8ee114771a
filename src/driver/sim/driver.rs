//! The driver's calls on the simulated node. They check their arguments, and hand over to the node's thread.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::arena::GRANULARITY;
use super::arguments::bad_event;
use super::capture::{Recorded, SYNCHRONIZE};
use super::config::LaunchSeen;
use super::describe::identity;
use super::handle::SimNode;
use super::launch::{Request, ctas_per_sm};
use super::machine::CTA_SHARED;
use super::shared::{Ask, bad_stream};
use super::stream::{Command, Landing, StreamKey};
use super::{tensor_map, timed};
use crate::abi::{TwParams, TwTensorMap};
use crate::driver::{
    DevicePtr, Driver, Event, Graph, GraphExec, HOST_WORDS, HostWords, Identity, Kind, Launch, Multicast, PeerClaim,
    Physical, Place, PlaceInfo, Stream, TensorMap, ThreadGuard,
};
use crate::error::{Error, Result};
use crate::topology::Topology;

impl Driver for SimNode {
    fn kind(&self) -> Kind {
        Kind::Sim
    }

    fn device_count(&self) -> usize {
        self.seen.len()
    }

    fn place_info(&self, place: Place) -> Result<PlaceInfo> {
        let place = self.check_place(place)?;
        let (of, shared, hopper) = match &self.config.clock {
            Some(node) => timed::place(node),
            None => ("device", CTA_SHARED, true),
        };
        Ok(PlaceInfo {
            name: format!("simulated {of} {}", place.device),
            compute_capability: (0, 0),
            sms: self.sms_of(place),
            shared_per_cta: shared,
            hopper,
        })
    }

    fn describe(&self) -> Result<Option<Topology>> {
        Ok(Some(self.config.describe()))
    }

    fn version(&self) -> String {
        "simulated".into()
    }

    fn identity(&self, device: usize) -> Result<Identity> {
        Ok(identity(self.check_device("device", device)?))
    }

    fn peer_claim(&self, from: usize, to: usize) -> Result<PeerClaim> {
        Ok(self
            .config
            .claims(self.check_device("from", from)?, self.check_device("to", to)?))
    }

    fn multicast_claim(&self, device: usize) -> Result<bool> {
        self.check_device("device", device).map(|_| self.config.multicast)
    }

    fn stream_create(&self, place: Place) -> Result<Stream> {
        let place = self.check_place(place)?;
        Ok(Stream(self.node.shared.lock().add_stream(
            place.device,
            place.share,
            place.shares,
        )))
    }

    fn stream_place(&self, stream: Stream) -> Result<Place> {
        let StreamKey {
            device, share, shares, ..
        } = self.stream_key(stream)?;
        Ok(self.place_here(Place { device, share, shares }))
    }

    fn stream_destroy(&self, stream: Stream) -> Result<()> {
        {
            let mut s = self.node.shared.lock();
            let head = s.streams.get(&stream.0).ok_or_else(|| bad_stream(stream.0))?;
            let key = head.key;
            // Nothing to wait for: whoever ends it may do so while others hold the node up.
            if head.is_idle() {
                s.streams.remove(&stream.0);
                s.asks.push(Ask::End { key });
                return Ok(());
            }
        }
        let result = self.run(stream, Command::Close);
        if self.stream_is_capturing(stream)? {
            return result;
        }
        self.node.shared.lock().streams.remove(&stream.0);
        result
    }

    fn stream_synchronize(&self, stream: Stream) -> Result<()> {
        let position = {
            let mut s = self.node.shared.lock();
            let head = s.streams.get_mut(&stream.0).ok_or_else(|| bad_stream(stream.0))?;
            if let Some(capture) = &mut head.capture {
                return Err(capture.refuse(SYNCHRONIZE));
            }
            head.enqueued
        };
        self.node.shared.wait(stream.0, position)
    }

    fn stream_wait(&self, stream: Stream, patience: Duration) -> Result<bool> {
        let position = {
            let mut s = self.node.shared.lock();
            let head = s.streams.get_mut(&stream.0).ok_or_else(|| bad_stream(stream.0))?;
            if let Some(capture) = &mut head.capture {
                return Err(capture.refuse(SYNCHRONIZE));
            }
            let (idle, enqueued) = (head.is_idle(), head.enqueued);
            if idle {
                s.find_done(stream.0, enqueued);
            }
            if idle || patience.is_zero() {
                return Ok(idle);
            }
            enqueued
        };
        let end = Instant::now().checked_add(patience);
        self.node.shared.wait_at_most(stream.0, position, end)
    }

    fn event_create(&self, place: Place) -> Result<Event> {
        self.check_place(place)?;
        let mut s = self.node.shared.lock();
        s.next_event += 1;
        let event = s.next_event;
        s.events.insert(event, Recorded::Never);
        Ok(Event(event))
    }

    fn event_done(&self, event: Event) -> Result<bool> {
        let recorded = *self
            .node
            .shared
            .lock()
            .events
            .get(&event.0)
            .ok_or_else(|| bad_event(event))?;
        recorded.happens()?;
        match recorded {
            Recorded::At(record) => self.node.shared.ask(|answer| Ask::Happened {
                event: event.0,
                record,
                answer,
            }),
            Recorded::Never | Recorded::Captured { .. } => Ok(true),
        }
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
        if s.captures(stream)? {
            // No work of its own: it names a place in the capture.
            s.events.insert(event.0, Recorded::Captured { stream: stream.0 });
            return Ok(());
        }
        s.enqueue(stream.0, Command::Record { event: event.0, record })?;
        s.next_record = record;
        s.events.insert(event.0, Recorded::At(record));
        Ok(())
    }

    fn stream_wait_event(&self, stream: Stream, event: Event) -> Result<()> {
        let mut s = self.node.shared.lock();
        let recorded = *s.events.get(&event.0).ok_or_else(|| bad_event(event))?;
        if s.waits_in_capture(stream, recorded)? {
            return Ok(());
        }
        // An event that was never recorded holds nobody up.
        if let Recorded::At(record) = recorded {
            s.enqueue(stream.0, Command::Wait { event: event.0, record })?;
        }
        Ok(())
    }

    fn event_elapsed_ms(&self, start: Event, end: Event) -> Result<Option<f64>> {
        let s = self.node.shared.lock();
        for event in [start, end] {
            s.events.get(&event.0).ok_or_else(|| bad_event(event))?.happens()?;
        }
        drop(s);
        self.elapsed_ms(start, end)
    }

    fn alloc(&self, place: Place, bytes: usize) -> Result<DevicePtr> {
        self.no_capture_here("alloc")?;
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
        let mut s = self.node.shared.lock();
        match s.streams.get(&stream.0) {
            Some(head) if head.is_idle() && s.dead.is_none() => self.arena.free(ptr),
            _ => s.enqueue(stream.0, Command::Free { ptr }).map(drop),
        }
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

    fn copy_device(&self, dst: DevicePtr, src: DevicePtr, bytes: usize, stream: Stream) -> Result<()> {
        let device = self.stream_key(stream)?.device;
        for (name, ptr) in [("dst", dst), ("src", src)] {
            self.check_range(name, ptr, bytes)?;
            self.check_mapped(name, ptr, device)?;
        }
        let bytes = bytes as u64;
        self.enqueue(stream, Command::Copy { dst, src, bytes }).map(drop)
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

    fn host_words(&self, place: Place) -> Result<HostWords> {
        let bytes = 8 * HOST_WORDS;
        let ptr = self.arena.allocate(self.check_place(place)?.device, bytes)?;
        self.poke(ptr, &vec![0; bytes])?;
        Ok(HostWords {
            host: ptr as usize,
            device: ptr,
        })
    }

    fn host_words_free(&self, words: HostWords) -> Result<()> {
        self.arena.free(words.device)
    }

    fn physical_granularity(&self, place: Place) -> Result<usize> {
        self.check_place(place).map(|_| GRANULARITY)
    }

    fn physical_create(&self, place: Place, bytes: usize) -> Result<Physical> {
        self.no_capture_here("physical_create")?;
        self.arena
            .physical_create(self.check_place(place)?.device, bytes)
            .map(Physical)
    }

    fn physical_map(&self, memory: Physical, bytes: usize, accessors: &[Place]) -> Result<DevicePtr> {
        self.no_capture_here("physical_map")?;
        let owner = self.arena.physical_device(memory.0)?;
        for place in accessors {
            if let Some(refusal) = self.config.refuses(self.check_place(*place)?.device, owner) {
                return Err(refusal);
            }
        }
        let ptr = self.arena.physical_map(memory.0, bytes, self.devices_of(accessors)?)?;
        // Linked by it, the node goes on by itself with what is enqueued.
        self.node.shared.wake();
        Ok(ptr)
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

    fn multicast_granularity(&self, places: &[Place]) -> Result<usize> {
        self.check_switch()?;
        places.iter().try_for_each(|place| self.check_place(*place).map(drop))?;
        Ok(GRANULARITY)
    }

    fn multicast_create(&self, devices: usize, bytes: usize) -> Result<Multicast> {
        self.check_switch()?;
        self.arena.multicast_create(devices, bytes).map(Multicast)
    }

    fn multicast_add_device(&self, object: Multicast, place: Place) -> Result<()> {
        self.arena.multicast_add(object.0, self.check_place(place)?.device)
    }

    fn multicast_bind(
        &self,
        object: Multicast,
        place: Place,
        memory: Physical,
        offset: usize,
        bytes: usize,
    ) -> Result<()> {
        let device = self.check_place(place)?.device;
        self.arena.multicast_bind(object.0, device, memory.0, offset, bytes)
    }

    fn multicast_unbind(&self, object: Multicast, place: Place, offset: usize, bytes: usize) -> Result<()> {
        let device = self.check_place(place)?.device;
        self.arena.multicast_unbind(object.0, device, offset, bytes)
    }

    fn multicast_map(&self, object: Multicast, bytes: usize, accessors: &[Place]) -> Result<DevicePtr> {
        self.arena.multicast_map(object.0, bytes, self.devices_of(accessors)?)
    }

    fn multicast_unmap(&self, ptr: DevicePtr, bytes: usize) -> Result<()> {
        self.arena.multicast_unmap(ptr, bytes)
    }

    fn multicast_export(&self, _: Multicast) -> Result<OwnedFd> {
        Err(multicast_between_processes())
    }

    fn multicast_import(&self, _: BorrowedFd<'_>) -> Result<Multicast> {
        Err(multicast_between_processes())
    }

    fn multicast_release(&self, object: Multicast) -> Result<()> {
        self.arena.multicast_release(object.0)
    }

    fn load_kernels(&self, place: Place) -> Result<()> {
        self.no_capture_here("load_kernels")?;
        self.check_place(place).map(drop)
    }

    fn encode_tensor_map(&self, place: Place, map: &TensorMap) -> Result<TwTensorMap> {
        self.check_place(place)?;
        tensor_map::encode(map)
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
        if !launch.grid.is_multiple_of(launch.cluster) {
            let expected = format!("a multiple of {}, the CTAs of a cluster", launch.cluster);
            return Err(Error::bad_argument("grid", launch.grid, expected));
        }
        let mut params = *params;
        if let Some(hook) = &self.hook {
            let place = self.place_here(place);
            hook(LaunchSeen { kernel, place, launch }, &mut params);
        }
        self.enqueue(stream, Command::Launch(Box::new(Request { entry, launch, params })))
            .map(drop)
    }

    fn stream_begin_capture(&self, stream: Stream) -> Result<()> {
        self.node.shared.lock().begin_capture(stream)
    }

    fn stream_end_capture(&self, stream: Stream) -> Result<Graph> {
        self.node.shared.lock().end_capture(stream)
    }

    fn stream_is_capturing(&self, stream: Stream) -> Result<bool> {
        self.node.shared.lock().captures(stream)
    }

    fn graph_instantiate(&self, graph: Graph, stream: Stream) -> Result<GraphExec> {
        self.no_capture_here("graph_instantiate")?;
        self.node.shared.lock().instantiate(graph, stream)
    }

    fn graph_upload(&self, exec: GraphExec, stream: Stream) -> Result<()> {
        self.no_capture_here("graph_upload")?;
        self.node.shared.lock().executable(exec, stream).map(drop)
    }

    fn graph_launch(&self, exec: GraphExec, stream: Stream) -> Result<()> {
        self.node.shared.lock().launch_graph(exec, stream)
    }

    fn graph_exec_destroy(&self, exec: GraphExec) -> Result<()> {
        self.node.shared.lock().destroy_executable(exec)
    }

    fn graph_destroy(&self, graph: Graph) -> Result<()> {
        self.node.shared.lock().destroy_graph(graph)
    }

    fn attach_thread(&self) -> ThreadGuard {
        let shared = self.node.shared.clone();
        let thread = shared.attach();
        ThreadGuard(Some(Box::new(move || shared.detach(thread))))
    }

    fn wait_elsewhere(&self) -> ThreadGuard {
        let shared = self.node.shared.clone();
        let thread = shared.go_elsewhere();
        ThreadGuard(Some(Box::new(move || shared.come_back(thread))))
    }

    fn model_collective(&self, streams: &[Stream], us: f64, bytes: u64) -> Result<()> {
        self.collective(streams, us, bytes)
    }

    fn observed_traffic(&self, place: Place) -> Option<(u64, u64)> {
        let device = self.seen.get(place.device)?;
        self.node.shared.lock().traffic.get(*device).copied()
    }
}

fn multicast_between_processes() -> Error {
    Error::Unavailable {
        what: "a multicast object of several processes".into(),
        reason: "the simulated node adds up and stores in its switch for the devices of one process alone".into(),
    }
}
