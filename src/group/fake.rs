//! A driver for unit tests: host memory for devices, launches that are only noted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Node;
use crate::abi::TwParams;
use crate::driver::{
    DevicePtr, Driver, Event, HOST_WORDS, HostWords, Identity, Kind, Launch, PeerClaim, Physical, Place, PlaceInfo,
    Stream,
};
use crate::error::{Error, Result};

/// What was launched.
#[derive(Debug, Clone)]
pub(crate) struct Launched {
    pub kernel: String,
    pub launch: Launch,
    pub params: TwParams,
    pub stream: Stream,
}

#[derive(Debug, Default)]
pub(crate) struct Fake {
    pub devices: usize,
    /// Kernels that a device runs at once; 0: any number.
    pub kernels_at_once: AtomicUsize,
    next: AtomicU64,
    memory: Mutex<BTreeMap<u64, Vec<u8>>>,
    pub launches: Mutex<Vec<Launched>>,
    /// Whether it passes for CUDA.
    pub cuda: bool,
    /// Whether work in its streams is not done.
    pub busy: AtomicBool,
    /// How often somebody asked a stream something, or gave it work.
    pub streams_touched: AtomicUsize,
    /// Whether its streams capture.
    pub captures: AtomicBool,
    /// Streams, mappings and physical memory that are there.
    pub alive: Mutex<Vec<&'static str>>,
}

impl Fake {
    pub fn node(devices: usize) -> (Arc<Fake>, Node) {
        let fake = Arc::new(Fake {
            devices,
            ..Fake::default()
        });
        (fake.clone(), Node::new(fake))
    }

    fn make(&self, what: &'static str) -> u64 {
        self.alive.lock().unwrap().push(what);
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn end(&self, what: &'static str) -> Result<()> {
        let mut alive = self.alive.lock().unwrap();
        let at = alive.iter().position(|w| *w == what).expect("ended twice");
        alive.remove(at);
        Ok(())
    }

    fn with<T>(&self, ptr: DevicePtr, bytes: usize, touch: impl FnOnce(&mut [u8]) -> T) -> Result<T> {
        let mut memory = self.memory.lock().unwrap();
        let (base, region) = memory.range_mut(..=ptr).next_back().expect("mapped");
        let at = (ptr - base) as usize;
        let Some(part) = region.get_mut(at..at + bytes) else {
            return Err(Error::bad_argument("ptr", ptr, "mapped memory"));
        };
        Ok(touch(part))
    }

    fn region(&self, bytes: usize) -> DevicePtr {
        let base = (self.next.fetch_add(1, Ordering::Relaxed) + 1) << 32;
        self.memory.lock().unwrap().insert(base, vec![0xa5; bytes]);
        base
    }

    /// The names of the kernels launched since the last call.
    pub fn take(&self) -> Vec<Launched> {
        std::mem::take(&mut *self.launches.lock().unwrap())
    }
}

impl Driver for Fake {
    fn kind(&self) -> Kind {
        if self.cuda { Kind::Cuda } else { Kind::Sim }
    }
    fn device_count(&self) -> usize {
        self.devices
    }
    fn place_info(&self, place: Place) -> Result<PlaceInfo> {
        assert!(place.device < self.devices && place.share < place.shares);
        let sms = 32 / place.shares as u32;
        Ok(PlaceInfo {
            name: "fake".into(),
            compute_capability: (0, 0),
            sms,
            shared_per_cta: 1 << 17,
            hopper: false,
        })
    }
    fn version(&self) -> String {
        "fake".into()
    }
    fn identity(&self, device: usize) -> Result<Identity> {
        Ok(Identity {
            uuid: format!("GPU-{device}"),
            pci: format!("00000000:{device:02x}:00.0"),
            memory_bytes: 1 << 30,
        })
    }
    fn peer_claim(&self, _: usize, _: usize) -> Result<PeerClaim> {
        Ok(PeerClaim {
            access: true,
            atomics: true,
        })
    }
    fn multicast_claim(&self, _: usize) -> Result<bool> {
        Ok(false)
    }
    fn concurrent_kernels(&self, _: usize) -> Option<usize> {
        match self.kernels_at_once.load(Ordering::Relaxed) {
            0 => None,
            most => Some(most),
        }
    }
    fn stream_create(&self, _: Place) -> Result<Stream> {
        Ok(Stream(self.make("stream") as usize))
    }
    fn stream_destroy(&self, _: Stream) -> Result<()> {
        self.end("stream")
    }
    fn stream_place(&self, _: Stream) -> Result<Place> {
        Ok(Place {
            device: 0,
            share: 0,
            shares: 1,
        })
    }
    fn stream_synchronize(&self, _: Stream) -> Result<()> {
        Ok(())
    }
    fn stream_wait(&self, _: Stream, _: Duration) -> Result<bool> {
        self.streams_touched.fetch_add(1, Ordering::Relaxed);
        Ok(!self.busy.load(Ordering::Relaxed))
    }
    fn stream_is_capturing(&self, _: Stream) -> Result<bool> {
        self.streams_touched.fetch_add(1, Ordering::Relaxed);
        Ok(self.captures.load(Ordering::Relaxed))
    }
    fn event_create(&self, _: Place) -> Result<Event> {
        Ok(Event(0))
    }
    fn event_done(&self, _: Event) -> Result<bool> {
        Ok(true)
    }
    fn event_destroy(&self, _: Event) -> Result<()> {
        Ok(())
    }
    fn event_record(&self, _: Event, _: Stream) -> Result<()> {
        self.streams_touched.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn stream_wait_event(&self, _: Stream, _: Event) -> Result<()> {
        Ok(())
    }
    fn event_elapsed_ms(&self, _: Event, _: Event) -> Result<Option<f64>> {
        Ok(None)
    }
    fn alloc(&self, _: Place, bytes: usize) -> Result<DevicePtr> {
        self.make("buffer");
        Ok(self.region(bytes))
    }
    fn free_async(&self, ptr: DevicePtr, _: Stream) -> Result<()> {
        self.memory.lock().unwrap().remove(&ptr).expect("freed twice");
        self.end("buffer")
    }
    fn copy_in(&self, dst: DevicePtr, src: &[u8], _: Stream) -> Result<()> {
        self.poke(dst, src)
    }
    fn copy_out(&self, dst: &mut [u8], src: DevicePtr, _: Stream) -> Result<()> {
        self.peek(dst, src)
    }
    fn copy_device(&self, dst: DevicePtr, src: DevicePtr, bytes: usize, _: Stream) -> Result<()> {
        let mut data = vec![0; bytes];
        self.peek(&mut data, src)?;
        self.poke(dst, &data)
    }
    fn fill(&self, dst: DevicePtr, byte: u8, bytes: usize, _: Stream) -> Result<()> {
        self.with(dst, bytes, |part| part.fill(byte))
    }
    fn peek(&self, dst: &mut [u8], src: DevicePtr) -> Result<()> {
        self.with(src, dst.len(), |part| dst.copy_from_slice(part))
    }
    fn poke(&self, dst: DevicePtr, src: &[u8]) -> Result<()> {
        self.with(dst, src.len(), |part| part.copy_from_slice(src))
    }
    fn host_words(&self, _: Place) -> Result<HostWords> {
        self.make("host words");
        let words: Box<[u64]> = vec![0; HOST_WORDS].into();
        let host = Box::into_raw(words).cast::<u64>().expose_provenance();
        Ok(HostWords {
            host,
            device: host as u64,
        })
    }
    fn host_words_free(&self, words: HostWords) -> Result<()> {
        let all =
            std::ptr::slice_from_raw_parts_mut(std::ptr::with_exposed_provenance_mut::<u64>(words.host), HOST_WORDS);
        // SAFETY: made in `host_words`, and given back once: `end` says so.
        drop(unsafe { Box::from_raw(all) });
        self.end("host words")
    }
    fn physical_granularity(&self, _: Place) -> Result<usize> {
        Ok(1 << 16)
    }
    fn physical_create(&self, _: Place, bytes: usize) -> Result<Physical> {
        assert_eq!(bytes % (1 << 16), 0);
        Ok(Physical(self.make("physical")))
    }
    fn physical_map(&self, _: Physical, bytes: usize, accessors: &[Place]) -> Result<DevicePtr> {
        assert!(!accessors.is_empty());
        self.make("mapping");
        Ok(self.region(bytes))
    }
    fn physical_unmap(&self, ptr: DevicePtr, bytes: usize) -> Result<()> {
        assert_eq!(self.memory.lock().unwrap().remove(&ptr).map(|m| m.len()), Some(bytes));
        self.end("mapping")
    }
    fn physical_release(&self, _: Physical) -> Result<()> {
        self.end("physical")
    }
    #[cfg(unix)]
    fn physical_export(&self, _: Physical) -> Result<std::os::fd::OwnedFd> {
        Err(Error::bad_argument("memory", "fake", "memory of a real machine"))
    }
    #[cfg(unix)]
    fn physical_import(&self, _: std::os::fd::BorrowedFd<'_>, _: Place, _: usize) -> Result<Physical> {
        Err(Error::bad_argument("fd", "fake", "memory of a real machine"))
    }
    fn load_kernels(&self, _: Place) -> Result<()> {
        Ok(())
    }
    fn ctas_per_sm(&self, _: &str, _: Launch, _: Place) -> Result<u32> {
        Ok(2)
    }
    fn launch(&self, kernel: &str, launch: Launch, params: &TwParams, stream: Stream) -> Result<()> {
        let launched = Launched {
            kernel: kernel.to_string(),
            launch,
            params: *params,
            stream,
        };
        self.launches.lock().unwrap().push(launched);
        Ok(())
    }
}
