//! The trait, call by call.

use std::time::Duration;

use cudarc::driver::sys;

use super::device::{Current, Handle, create_stream};
use super::{
    CudaDriver, copies, graphs, hardware_queues, identity, kernels, multicast, tensor_map, virtual_memory, wait,
};
use crate::abi::{TwParams, TwTensorMap};
use crate::driver::{
    DevicePtr, Driver, Event, Graph, GraphExec, HostWords, Identity, Kind, Launch, Multicast, PeerClaim, Physical,
    Place, PlaceInfo, Stream, TensorMap,
};
use crate::error::{Error, Result};

fn handle(event: Event) -> sys::CUevent {
    std::ptr::with_exposed_provenance_mut(event.0)
}

/// An event of the current context, which measures time.
fn create_event() -> Result<Event> {
    let mut event = std::ptr::null_mut();
    let flags = sys::CUevent_flags_enum::CU_EVENT_DEFAULT as u32;
    // SAFETY: `event` outlives the call.
    unsafe { cu!(cuEventCreate(&mut event, flags)) }?;
    Ok(Event(event.expose_provenance()))
}

impl Driver for CudaDriver {
    fn kind(&self) -> Kind {
        Kind::Cuda
    }

    fn device_count(&self) -> usize {
        self.facts.len()
    }

    fn place_info(&self, place: Place) -> Result<PlaceInfo> {
        let (device, _) = self.place(place)?;
        let split = device.split(place.shares)?;
        let facts = &device.facts;
        let name = match (&split.capped, place.shares) {
            (_, 1) => facts.name.clone(),
            (None, shares) => format!("{}, share {} of {shares} ({} SMs)", facts.name, place.share, split.sms),
            (Some(why), shares) => {
                let (name, sms) = (&facts.name, split.sms);
                format!(
                    "{name}, share {} of {shares} (grids capped to {sms} SMs, no green contexts: {why})",
                    place.share
                )
            }
        };
        let (compute_capability, shared_per_cta) = (facts.capability, facts.shared_per_cta);
        Ok(PlaceInfo {
            name,
            compute_capability,
            sms: split.sms,
            shared_per_cta,
            hopper: kernels::has_hopper(self.archs, compute_capability),
        })
    }

    fn version(&self) -> String {
        let version = self.library.version;
        format!("CUDA {}.{}", version / 1000, version % 1000 / 10)
    }

    fn identity(&self, device: usize) -> Result<Identity> {
        identity::identity(self.facts("device", device)?)
    }

    fn peer_claim(&self, from: usize, to: usize) -> Result<PeerClaim> {
        identity::peer_claim(self.facts("from", from)?, self.facts("to", to)?)
    }

    fn multicast_claim(&self, device: usize) -> Result<bool> {
        let facts = self.facts("device", device)?;
        let kernels = kernels::has_multimem(self.archs, facts.capability);
        Ok(kernels && self.library.multicast && identity::multicast_claim(facts)?)
    }

    fn concurrent_kernels(&self, _device: usize) -> Option<usize> {
        // One queue is for the stream that peeks and pokes.
        Some(hardware_queues() - 1)
    }

    fn stream_create(&self, place: Place) -> Result<Stream> {
        let (device, context) = self.place(place)?;
        let split = device.split(place.shares)?;
        let _current = Current::push(context)?;
        let stream = match split.green.get(place.share) {
            None => create_stream()?,
            Some(green) => {
                let mut stream = std::ptr::null_mut();
                let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
                // SAFETY: `stream` outlives the call; the green context lives as long as the device.
                unsafe { cu!(cuGreenCtxStreamCreate(&mut stream, green.handle.0, flags, 0)) }?;
                Handle(stream)
            }
        };
        let id = stream.0.expose_provenance();
        super::lock(&self.streams).insert(id, (context, place));
        Ok(Stream(id))
    }

    fn stream_place(&self, stream: Stream) -> Result<Place> {
        self.place_of(stream)
    }

    fn stream_destroy(&self, stream: Stream) -> Result<()> {
        let (_current, handle) = self.enter(stream)?;
        // SAFETY: the stream is alive until here, and ends here: the contract of the call.
        unsafe { cu!(cuStreamSynchronize(handle)) }?;
        super::lock(&self.streams).remove(&stream.0);
        // SAFETY: as above.
        unsafe { cu!(cuStreamDestroy_v2(handle)) }
    }

    fn stream_synchronize(&self, stream: Stream) -> Result<()> {
        let (_current, handle) = self.enter(stream)?;
        // SAFETY: the stream is alive: the caller's word.
        unsafe { cu!(cuStreamSynchronize(handle)) }
    }

    fn stream_wait(&self, stream: Stream, patience: Duration) -> Result<bool> {
        let (_current, handle) = self.enter(stream)?;
        wait::until_idle(handle, patience)
    }

    fn event_create(&self, place: Place) -> Result<Event> {
        // An event and the streams that record it must be of one context.
        let (_, context) = self.place(place)?;
        let _current = Current::push(context)?;
        create_event()
    }

    fn event_create_for(&self, stream: Stream) -> Result<Event> {
        let (_current, _) = self.enter(stream)?;
        create_event()
    }

    fn event_done(&self, event: Event) -> Result<bool> {
        // SAFETY: the event is alive: the caller's word.
        match unsafe { sys::cuEventQuery(handle(event)) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            code => super::library::check("cuEventQuery", code).map(|()| true),
        }
    }

    fn event_destroy(&self, event: Event) -> Result<()> {
        // Any context will do, and a thread that only gives things back has none.
        let open = self.devices.iter().find_map(std::sync::OnceLock::get);
        let _current = open.map(|device| Current::push(device.context)).transpose()?;
        // SAFETY: the event is alive until here, and ends here: the contract of the call.
        unsafe { cu!(cuEventDestroy_v2(handle(event))) }
    }

    fn event_record(&self, event: Event, stream: Stream) -> Result<()> {
        let (_current, stream) = self.enter(stream)?;
        // SAFETY: both are alive: the caller's word.
        unsafe { cu!(cuEventRecord(handle(event), stream)) }
    }

    fn stream_wait_event(&self, stream: Stream, event: Event) -> Result<()> {
        let (_current, stream) = self.enter(stream)?;
        // SAFETY: both are alive: the caller's word; 0 is the flag for no option.
        unsafe { cu!(cuStreamWaitEvent(stream, handle(event), 0)) }
    }

    fn event_elapsed_ms(&self, start: Event, end: Event) -> Result<Option<f64>> {
        let mut ms = 0f32;
        // SAFETY: `ms` outlives the call; both events are alive: the caller's word.
        let code = unsafe { (self.library.elapsed_time)(&mut ms, handle(start), handle(end)) };
        super::library::check("cuEventElapsedTime", code)?;
        Ok(Some(f64::from(ms)))
    }

    fn alloc(&self, place: Place, bytes: usize) -> Result<DevicePtr> {
        self.device(place.device)?.alloc(bytes)
    }

    fn free_async(&self, ptr: DevicePtr, stream: Stream) -> Result<()> {
        let (_current, stream) = self.enter(stream)?;
        // SAFETY: `ptr` came from `alloc` and is freed once, behind the stream's work: the contract of the call.
        unsafe { cu!(cuMemFreeAsync(ptr, stream)) }
    }

    fn copy_in(&self, dst: DevicePtr, src: &[u8], stream: Stream) -> Result<()> {
        let (_current, stream) = self.enter(stream)?;
        // The temporary would be freed behind a copy that has not run, and each launch of the graph would copy from it.
        if graphs::is_capturing(stream)? {
            return Err(Error::Driver {
                call: "copy_in",
                code: sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED as i64,
                message: "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: host memory is not copied in a capture".into(),
            });
        }
        self.device_of(dst)?.copy_in(dst, src, stream)
    }

    fn copy_out(&self, dst: &mut [u8], src: DevicePtr, stream: Stream) -> Result<()> {
        self.stream_synchronize(stream)?;
        self.peek(dst, src)
    }

    fn copy_device(&self, dst: DevicePtr, src: DevicePtr, bytes: usize, stream: Stream) -> Result<()> {
        let (_current, stream) = self.enter(stream)?;
        copies::copy_device(dst, src, bytes, stream)
    }

    fn fill(&self, dst: DevicePtr, byte: u8, bytes: usize, stream: Stream) -> Result<()> {
        let (_current, stream) = self.enter(stream)?;
        copies::fill(dst, byte, bytes, stream)
    }

    fn peek(&self, dst: &mut [u8], src: DevicePtr) -> Result<()> {
        self.device_of(src)?.peek(dst, src)
    }

    fn poke(&self, dst: DevicePtr, src: &[u8]) -> Result<()> {
        self.device_of(dst)?.poke(dst, src)
    }

    fn host_words(&self, place: Place) -> Result<HostWords> {
        self.host_words.take(self.device(place.device)?.context)
    }

    fn host_words_free(&self, words: HostWords) -> Result<()> {
        self.host_words.give_back(words)
    }

    fn physical_granularity(&self, place: Place) -> Result<usize> {
        self.device(place.device)?;
        virtual_memory::granularity(place)
    }

    fn physical_create(&self, place: Place, bytes: usize) -> Result<Physical> {
        self.device(place.device)?;
        virtual_memory::create(place, bytes)
    }

    fn physical_map(&self, memory: Physical, bytes: usize, accessors: &[Place]) -> Result<DevicePtr> {
        for place in accessors {
            self.device(place.device)?;
        }
        if !self.imports.has(memory) {
            return virtual_memory::map(memory, bytes, accessors);
        }
        let devices: Vec<usize> = accessors.iter().map(|place| place.device).collect();
        let Some(first) = devices.first().copied() else {
            return Err(Error::bad_argument(
                "accessors",
                "none",
                "a device that is to reach another process's memory",
            ));
        };
        let ptr = virtual_memory::map_for(memory.0, bytes, devices)?;
        self.imports.mapped(ptr, bytes, first);
        Ok(ptr)
    }

    fn physical_unmap(&self, ptr: DevicePtr, bytes: usize) -> Result<()> {
        self.imports.unmapped(ptr);
        virtual_memory::unmap(ptr, bytes)
    }

    fn physical_release(&self, memory: Physical) -> Result<()> {
        self.imports.went(memory);
        virtual_memory::release(memory)
    }

    #[cfg(unix)]
    fn physical_export(&self, memory: Physical) -> Result<std::os::fd::OwnedFd> {
        virtual_memory::export(memory)
    }

    #[cfg(unix)]
    fn physical_import(&self, fd: std::os::fd::BorrowedFd<'_>, place: Place, _bytes: usize) -> Result<Physical> {
        self.device(place.device)?;
        virtual_memory::import(fd).inspect(|memory| self.imports.came(*memory))
    }

    fn multicast_granularity(&self, places: &[Place]) -> Result<usize> {
        self.check_multicast()?;
        multicast::granularity(places.len())
    }

    fn multicast_create(&self, devices: usize, bytes: usize) -> Result<Multicast> {
        self.check_multicast()?;
        multicast::create(devices, bytes)
    }

    fn multicast_add_device(&self, object: Multicast, place: Place) -> Result<()> {
        self.check_multicast()?;
        multicast::add_device(object, self.facts("device", place.device)?)
    }

    fn multicast_bind(
        &self,
        object: Multicast,
        place: Place,
        memory: Physical,
        offset: usize,
        bytes: usize,
    ) -> Result<()> {
        self.check_multicast()?;
        self.facts("device", place.device)?;
        multicast::bind(object, memory, offset, bytes)
    }

    fn multicast_unbind(&self, object: Multicast, place: Place, offset: usize, bytes: usize) -> Result<()> {
        self.check_multicast()?;
        multicast::unbind(object, self.facts("device", place.device)?, offset, bytes)
    }

    fn multicast_map(&self, object: Multicast, bytes: usize, accessors: &[Place]) -> Result<DevicePtr> {
        let devices = accessors
            .iter()
            .map(|place| self.facts("device", place.device).map(|_| place.device));
        virtual_memory::map_for(object.0, bytes, devices.collect::<Result<_>>()?)
    }

    fn multicast_unmap(&self, ptr: DevicePtr, bytes: usize) -> Result<()> {
        virtual_memory::unmap(ptr, bytes)
    }

    #[cfg(unix)]
    fn multicast_export(&self, object: Multicast) -> Result<std::os::fd::OwnedFd> {
        virtual_memory::export(Physical(object.0))
    }

    #[cfg(unix)]
    fn multicast_import(&self, fd: std::os::fd::BorrowedFd<'_>) -> Result<Multicast> {
        self.check_multicast()?;
        virtual_memory::import(fd).map(|memory| Multicast(memory.0))
    }

    fn multicast_release(&self, object: Multicast) -> Result<()> {
        virtual_memory::release(Physical(object.0))
    }

    fn load_kernels(&self, place: Place) -> Result<()> {
        let (device, context) = self.place(place)?;
        let _current = Current::push(context)?;
        self.kernels.load_in_current(&device.facts)
    }

    fn encode_tensor_map(&self, place: Place, map: &TensorMap) -> Result<TwTensorMap> {
        map.check()?;
        let (_, context) = self.place(place)?;
        let _current = Current::push(context)?;
        tensor_map::encode(map)
    }

    fn ctas_per_sm(&self, kernel: &str, launch: Launch, place: Place) -> Result<u32> {
        let (device, context) = self.place(place)?;
        let _current = Current::push(context)?;
        let alone = self.kernels.ctas_per_sm(kernel, launch)?;
        // Shares without SMs of their own: see `shares`.
        let capped = device.split(place.shares)?.capped.is_some();
        Ok(if capped { alone.min(1) } else { alone })
    }

    fn resident_ctas(&self, kernel: &str, launch: Launch, place: Place) -> Result<u32> {
        let (device, context) = self.place(place)?;
        let split = device.split(place.shares)?;
        let alone = self.ctas_per_sm(kernel, launch, place)?.saturating_mul(split.sms);
        if launch.cluster <= 1 {
            return Ok(alone);
        }
        if split.capped.is_some() {
            // SMs are promised one by one, not as neighbours: see `shares`.
            return Ok(0);
        }
        let _current = Current::push(context)?;
        let clusters = self.kernels.resident_clusters(kernel, launch)?;
        // The share's SMs bound it, whether or not the answer knows of them.
        Ok(clusters.min(alone / launch.cluster) * launch.cluster)
    }

    fn launch(&self, kernel: &str, launch: Launch, params: &TwParams, stream: Stream) -> Result<()> {
        let (_current, stream) = self.enter(stream)?;
        self.kernels.launch(kernel, launch, params, stream)
    }

    fn in_context(&self, place: Place, body: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let _current = Current::push(self.device(place.device)?.context)?;
        body()
    }

    fn stream_begin_capture(&self, stream: Stream) -> Result<()> {
        let (_current, stream) = self.enter(stream)?;
        graphs::begin(stream)
    }

    fn stream_end_capture(&self, stream: Stream) -> Result<Graph> {
        let (_current, stream) = self.enter(stream)?;
        graphs::end(stream)
    }

    fn stream_is_capturing(&self, stream: Stream) -> Result<bool> {
        let (_current, stream) = self.enter(stream)?;
        graphs::is_capturing(stream)
    }

    fn graph_instantiate(&self, graph: Graph, stream: Stream) -> Result<GraphExec> {
        let (_current, _) = self.enter(stream)?;
        graphs::instantiate(graph)
    }

    fn graph_upload(&self, exec: GraphExec, stream: Stream) -> Result<()> {
        let (_current, stream) = self.enter(stream)?;
        graphs::upload(exec, stream)
    }

    fn graph_launch(&self, exec: GraphExec, stream: Stream) -> Result<()> {
        let (_current, stream) = self.enter(stream)?;
        graphs::launch(exec, stream)
    }

    fn graph_exec_destroy(&self, exec: GraphExec) -> Result<()> {
        graphs::destroy_exec(exec)
    }

    fn graph_destroy(&self, graph: Graph) -> Result<()> {
        graphs::destroy(graph)
    }
}
