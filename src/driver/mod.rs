//! The thin waist: everything the crate asks of a machine, in plain calls. Two implementations: the simulated node
//! (`sim`) and CUDA (`cuda`). All logic stands above it, so that one code path serves both.
//!
//! Handles are plain integers, valid for the driver that made them. Calls are asynchronous where CUDA's are: a copy, a
//! fill and a launch are enqueued on a stream and return.

#[cfg(all(feature = "cuda", any(target_os = "linux", target_os = "windows")))]
pub mod cuda;
#[cfg(feature = "sim")]
pub mod sim;
mod tensor_map;

pub use tensor_map::{BOX_BYTES, TensorMap};

use std::time::Duration;

use crate::abi::{TwParams, TwTensorMap};
use crate::error::{Error, Result};
use crate::topology::Topology;

/// A device address.
pub type DevicePtr = u64;

/// A stream of the driver (on CUDA the `CUstream`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stream(pub usize);

/// An event of the driver (on CUDA the `CUevent`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Event(pub usize);

/// Physical memory that can be mapped by several devices (on CUDA a `CUmemGenericAllocationHandle`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Physical(pub u64);

/// Where a rank's work runs: a device, or one of several equal shares of its SMs (virtual ranks).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Ordinal of the device.
    pub device: usize,
    /// Which share, below `shares`.
    pub share: usize,
    /// How many ranks share the device.
    pub shares: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.device)?;
        match self.shares {
            1 => Ok(()),
            shares => write!(f, " ({} of {shares})", self.share),
        }
    }
}

/// Facts about a place.
#[derive(Debug, Clone)]
pub struct PlaceInfo {
    /// The device's name.
    pub name: String,
    /// Compute capability, major and minor; (0, 0) on the simulated node.
    pub compute_capability: (u32, u32),
    /// SMs this place may use (its share's).
    pub sms: u32,
    /// Shared memory one CTA may have, in bytes.
    pub shared_per_cta: u32,
    /// Whether it has what the Hopper kernels need: TMA, wgmma, clusters (compute capability 9.0; the simulated node).
    pub hopper: bool,
}

/// The size and shape of a launch.
#[derive(Debug, Clone, Copy)]
pub struct Launch {
    /// CTAs. They wait for each other and for other ranks', so all must be co-resident.
    pub grid: u32,
    /// Threads of a CTA.
    pub threads: u32,
    /// Dynamic shared memory of a CTA, in bytes.
    pub shared: u32,
    /// CTAs of a cluster, which start together on neighbouring SMs and reach each other's shared memory; 1: no clusters.
    /// Divides the grid.
    pub cluster: u32,
}

/// What tells a device from all others, whatever its ordinal here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `GPU-...` or `MIG-...`, as NVML writes it.
    pub uuid: String,
    /// PCI bus id, lower case, `00000000:18:00.0`.
    pub pci: String,
    /// Device memory in bytes.
    pub memory_bytes: u64,
}

/// What the driver claims that one device can do with another's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerClaim {
    /// Read and write it.
    pub access: bool,
    /// Atomics of system scope on it.
    pub atomics: bool,
}

/// An object of the switch that one address of several devices' memory stands for (on CUDA a multicast
/// `CUmemGenericAllocationHandle`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Multicast(pub u64);

/// Memory of the host that kernels write and the host reads at any time: [`HOST_WORDS`] words of 64 bits, each written whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostWords {
    /// Where the host reads it.
    pub host: usize,
    /// Where kernels write it.
    pub device: DevicePtr,
}

/// The size of a [`HostWords`].
pub const HOST_WORDS: usize = 128;

/// Work captured from a stream (on CUDA a `CUgraph`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Graph(pub usize);

/// A graph ready to be launched, any number of times (on CUDA a `CUgraphExec`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GraphExec(pub usize);

/// What the driver is, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The simulated node.
    Sim,
    /// CUDA.
    Cuda,
}

/// A machine. All methods may be called from any thread.
pub trait Driver: Send + Sync + std::fmt::Debug {
    /// Which machine this is.
    fn kind(&self) -> Kind;
    /// Devices present.
    fn device_count(&self) -> usize;
    /// What a place has.
    fn place_info(&self, place: Place) -> Result<PlaceInfo>;

    /// The machine's own description, where it has one; `None`: ask NVML and the devices.
    fn describe(&self) -> Result<Option<Topology>> {
        Ok(None)
    }
    /// The version that the driver gives itself, the same on every process of a machine.
    fn version(&self) -> String;
    /// Which device this is.
    fn identity(&self, device: usize) -> Result<Identity>;
    /// What `from` may do with `to`'s memory, by the driver's word.
    fn peer_claim(&self, from: usize, to: usize) -> Result<PeerClaim>;
    /// Whether a device claims to join multicast objects.
    fn multicast_claim(&self, device: usize) -> Result<bool>;

    /// How many kernels that wait for each other a device runs at once, whatever their sizes; `None`: any number.
    fn concurrent_kernels(&self, _device: usize) -> Option<usize> {
        None
    }

    /// A new stream on `place`.
    fn stream_create(&self, place: Place) -> Result<Stream>;
    /// The place whose SMs a stream's work runs on; of a stream that was not made here, its whole device.
    fn stream_place(&self, stream: Stream) -> Result<Place>;
    /// Ends a stream made by [`Driver::stream_create`]; work in it is finished first.
    fn stream_destroy(&self, stream: Stream) -> Result<()>;
    /// Blocks until all work in `stream` is done.
    fn stream_synchronize(&self, stream: Stream) -> Result<()>;
    /// Blocks until all work in `stream` is done, but no longer than `patience` (wall time); whether it is. With none it is a
    /// question.
    fn stream_wait(&self, stream: Stream, patience: Duration) -> Result<bool>;

    /// A new event, which measures time.
    fn event_create(&self, place: Place) -> Result<Event>;
    /// A new event for `stream`, in whichever context that is.
    fn event_create_for(&self, stream: Stream) -> Result<Event> {
        self.event_create(self.stream_place(stream)?)
    }
    /// Whether a recorded event has happened; one that was never recorded has.
    fn event_done(&self, event: Event) -> Result<bool>;
    /// Ends an event.
    fn event_destroy(&self, event: Event) -> Result<()>;
    /// Records `event` behind the work now in `stream`.
    fn event_record(&self, event: Event, stream: Stream) -> Result<()>;
    /// Work enqueued in `stream` from now on waits for `event`.
    fn stream_wait_event(&self, stream: Stream, event: Event) -> Result<()>;
    /// Milliseconds between two recorded events that have happened; `None` where the machine has no clock.
    fn event_elapsed_ms(&self, start: Event, end: Event) -> Result<Option<f64>>;

    /// Ordinary memory on the place's device. Its content is undefined (the simulated node poisons it).
    fn alloc(&self, place: Place, bytes: usize) -> Result<DevicePtr>;
    /// Frees ordinary memory behind the work now in `stream`.
    fn free_async(&self, ptr: DevicePtr, stream: Stream) -> Result<()>;
    /// Copies host bytes to the device behind the work in `stream`; `src` is read before the call returns.
    fn copy_in(&self, dst: DevicePtr, src: &[u8], stream: Stream) -> Result<()>;
    /// Copies device bytes to the host behind the work in `stream`; blocks until they are there.
    fn copy_out(&self, dst: &mut [u8], src: DevicePtr, stream: Stream) -> Result<()>;
    /// Copies device bytes to device bytes behind the work in `stream`, by a copy engine of the stream's device, for which
    /// both are mapped, whichever devices they live on. They share no byte.
    fn copy_device(&self, dst: DevicePtr, src: DevicePtr, bytes: usize, stream: Stream) -> Result<()>;
    /// Fills device bytes behind the work in `stream`.
    fn fill(&self, dst: DevicePtr, byte: u8, bytes: usize, stream: Stream) -> Result<()>;
    /// Reads device memory now, behind no stream: for diagnosis after a failure, from any rank's mapping.
    fn peek(&self, dst: &mut [u8], src: DevicePtr) -> Result<()>;
    /// Writes device memory now, behind no stream: raises an abort word under a running kernel.
    fn poke(&self, dst: DevicePtr, src: &[u8]) -> Result<()>;

    /// Host memory that kernels of the place's device may write; all 0. Taken from a stock, so that it can be had and given
    /// back while kernels run.
    fn host_words(&self, place: Place) -> Result<HostWords>;
    /// Gives it back; no kernel still writes it.
    fn host_words_free(&self, words: HostWords) -> Result<()>;

    /// The granularity of physical memory on a device, in bytes.
    fn physical_granularity(&self, place: Place) -> Result<usize>;
    /// Physical memory on a device that others may map; a multiple of the granularity.
    fn physical_create(&self, place: Place, bytes: usize) -> Result<Physical>;
    /// Maps it for access from every device of `accessors`; the address is valid in this process.
    fn physical_map(&self, memory: Physical, bytes: usize, accessors: &[Place]) -> Result<DevicePtr>;
    /// Undoes [`Driver::physical_map`]; no work may still touch it.
    fn physical_unmap(&self, ptr: DevicePtr, bytes: usize) -> Result<()>;
    /// Gives the memory back once every mapping is gone.
    fn physical_release(&self, memory: Physical) -> Result<()>;
    /// A file descriptor that another process can import.
    #[cfg(unix)]
    fn physical_export(&self, memory: Physical) -> Result<std::os::fd::OwnedFd>;
    /// The memory behind an exported file descriptor; `place` is where it lives.
    #[cfg(unix)]
    fn physical_import(&self, fd: std::os::fd::BorrowedFd<'_>, place: Place, bytes: usize) -> Result<Physical>;

    /// The granularity of multicast objects over these devices, in bytes: of sizes, of offsets, and of what is bound.
    fn multicast_granularity(&self, places: &[Place]) -> Result<usize> {
        let _ = places;
        Err(no_multicast())
    }
    /// A multicast object of `bytes` for memory of `devices` devices, none of which has joined.
    fn multicast_create(&self, devices: usize, bytes: usize) -> Result<Multicast> {
        let _ = (devices, bytes);
        Err(no_multicast())
    }
    /// The place's device joins: once, and before anything is bound.
    fn multicast_add_device(&self, object: Multicast, place: Place) -> Result<()> {
        let _ = (object, place);
        Err(no_multicast())
    }
    /// The first `bytes` of `memory`, of the place's device, become that device's part from `offset` on. All devices have
    /// joined.
    fn multicast_bind(
        &self,
        object: Multicast,
        place: Place,
        memory: Physical,
        offset: usize,
        bytes: usize,
    ) -> Result<()> {
        let _ = (object, place, memory, offset, bytes);
        Err(no_multicast())
    }
    /// Undoes [`Driver::multicast_bind`]; no work may still touch it.
    fn multicast_unbind(&self, object: Multicast, place: Place, offset: usize, bytes: usize) -> Result<()> {
        let _ = (object, place, offset, bytes);
        Err(no_multicast())
    }
    /// Maps all of the object for every device of `accessors`. Its addresses are for multimem instructions alone.
    fn multicast_map(&self, object: Multicast, bytes: usize, accessors: &[Place]) -> Result<DevicePtr> {
        let _ = (object, bytes, accessors);
        Err(no_multicast())
    }
    /// Undoes [`Driver::multicast_map`]; no work may still touch it.
    fn multicast_unmap(&self, ptr: DevicePtr, bytes: usize) -> Result<()> {
        let _ = (ptr, bytes);
        Err(no_multicast())
    }
    /// A file descriptor that another process can import.
    #[cfg(unix)]
    fn multicast_export(&self, object: Multicast) -> Result<std::os::fd::OwnedFd> {
        let _ = object;
        Err(no_multicast())
    }
    /// The object behind an exported file descriptor.
    #[cfg(unix)]
    fn multicast_import(&self, fd: std::os::fd::BorrowedFd<'_>) -> Result<Multicast> {
        let _ = fd;
        Err(no_multicast())
    }
    /// Gives the object back once its mapping is gone.
    fn multicast_release(&self, object: Multicast) -> Result<()> {
        let _ = object;
        Err(no_multicast())
    }

    /// Loads every kernel on the place's device, before any launch: lazy loading under a waiting kernel deadlocks.
    fn load_kernels(&self, place: Place) -> Result<()>;
    /// Encodes a tensor map; an error names the limit that the matrix breaks.
    fn encode_tensor_map(&self, place: Place, map: &TensorMap) -> Result<TwTensorMap> {
        let _ = (place, map);
        Err(Error::Unavailable {
            what: "a tensor map".into(),
            reason: "this driver encodes none".into(),
        })
    }
    /// How many CTAs of `kernel` fit on one SM at once.
    fn ctas_per_sm(&self, kernel: &str, launch: Launch, place: Place) -> Result<u32>;
    /// How many CTAs of `kernel` are resident on `place` at once, in whole clusters of `launch`'s size; its grid does not count.
    /// Unless told otherwise, a cluster's CTAs may be anywhere on the place.
    fn resident_ctas(&self, kernel: &str, launch: Launch, place: Place) -> Result<u32> {
        let ctas = self.ctas_per_sm(kernel, launch, place)?;
        let all = ctas.saturating_mul(self.place_info(place)?.sms);
        Ok(all - all % launch.cluster.max(1))
    }
    /// Enqueues a kernel by its name in `csrc/kernels/entries.h`.
    fn launch(&self, kernel: &str, launch: Launch, params: &TwParams, stream: Stream) -> Result<()>;

    /// From here on the calling thread captures what is enqueued on `stream`, instead of running it. Meanwhile nothing may
    /// synchronise with the stream, copy from or to host memory on it, or allocate on this thread.
    fn stream_begin_capture(&self, stream: Stream) -> Result<()> {
        let _ = stream;
        Err(no_graphs())
    }
    /// Ends a capture, on the thread that began it. After a call that may not be captured: an error, and no graph.
    fn stream_end_capture(&self, stream: Stream) -> Result<Graph> {
        let _ = stream;
        Err(no_graphs())
    }
    /// Whether work on `stream` is captured, whoever began that; also where the capture is invalid by now.
    fn stream_is_capturing(&self, stream: Stream) -> Result<bool> {
        let _ = stream;
        Ok(false)
    }
    /// Makes a graph launchable in the context of `stream`. The graph may be destroyed afterwards. May allocate and
    /// synchronise: not while a kernel waits for a launch that is still to come.
    fn graph_instantiate(&self, graph: Graph, stream: Stream) -> Result<GraphExec> {
        let _ = (graph, stream);
        Err(no_graphs())
    }
    /// Moves to the device, behind the work in `stream`, what the first launch would move. As
    /// [`Driver::graph_instantiate`], not while a kernel waits for a launch.
    fn graph_upload(&self, exec: GraphExec, stream: Stream) -> Result<()> {
        let _ = (exec, stream);
        Err(no_graphs())
    }
    /// Enqueues all of a graph on `stream`. The memory that it names must still be there.
    fn graph_launch(&self, exec: GraphExec, stream: Stream) -> Result<()> {
        let _ = (exec, stream);
        Err(no_graphs())
    }
    /// Ends an executable graph; launches that are enqueued still run.
    fn graph_exec_destroy(&self, exec: GraphExec) -> Result<()> {
        let _ = exec;
        Err(no_graphs())
    }
    /// Ends a graph.
    fn graph_destroy(&self, graph: Graph) -> Result<()> {
        let _ = graph;
        Err(no_graphs())
    }

    /// Marks the calling thread as one that drives ranks, until the guard is dropped. The simulated node advances only
    /// while every such thread is blocked in a driver call (with none: whenever any thread is). Elsewhere: nothing.
    fn attach_thread(&self) -> ThreadGuard {
        ThreadGuard(None)
    }
    /// Marks the calling thread as one that waits for other threads, outside the driver, until the guard is dropped (by
    /// whoever ends the wait: else simulated time might run before this thread does). It does not hold the simulated node
    /// up meanwhile. Elsewhere: nothing.
    fn wait_elsewhere(&self) -> ThreadGuard {
        ThreadGuard(None)
    }
    /// Runs `body` with what the place's device has as its primary context current on this thread, and restores what was: for
    /// libraries that go by it, as NCCL does. Elsewhere it only runs it.
    fn in_context(&self, place: Place, body: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let _ = place;
        body()
    }
    /// On a node with a clock, another library's collective, as far as a model of it goes: it begins when the last of `streams`, one
    /// of each rank, has come to it, and all go on `us` microseconds later. Each rank's links carry `bytes` meanwhile, in and out.
    fn model_collective(&self, streams: &[Stream], us: f64, bytes: u64) -> Result<()> {
        let _ = (streams, us, bytes);
        Err(Error::Unavailable {
            what: "a model of a collective".into(),
            reason: "only a simulated node with a clock (SimConfig::clocked) has the time of what does not run".into(),
        })
    }
    /// Bytes and signals that left `place`'s device for peers so far, as the machine saw them; `None` where it cannot.
    fn observed_traffic(&self, _place: Place) -> Option<(u64, u64)> {
        None
    }
}

fn no_multicast() -> Error {
    Error::Unavailable {
        what: "a multicast object".into(),
        reason: "this driver has none".into(),
    }
}

fn no_graphs() -> Error {
    Error::Unavailable {
        what: "a graph".into(),
        reason: "this driver captures none".into(),
    }
}

/// See [`Driver::attach_thread`] and [`Driver::wait_elsewhere`].
pub struct ThreadGuard(pub(crate) Option<Box<dyn FnOnce() + Send>>);

impl std::fmt::Debug for ThreadGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ThreadGuard").field(&self.0.is_some()).finish()
    }
}

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        if let Some(leave) = self.0.take() {
            leave();
        }
    }
}
