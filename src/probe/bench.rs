//! What a probe has on each device: a stream, and one piece of physical memory that each peer maps in turn.
//!
//! ```text
//! 0        words that devices exchange and add to; results of the kernels that this device runs
//! 64 KiB   the target: guard, zone, guard. Peers store, load and copy here
//! behind   the source: of the same shape, what this device's copy engine sends
//! ```

use std::sync::Arc;

use crate::abi::{self, PROBE_RESULT_BYTES, TwParams, TwProbeResult};
use crate::driver::{DevicePtr, Driver, Event, Launch, Physical, Place, Stream};
use crate::error::Result;

const VECTOR: usize = 16;
/// Vectors of a guard: a page and more.
const GUARD: usize = 512;
/// Where things lie, in bytes; words have cache lines of their own.
pub(super) const ECHO_WORD: u64 = 0;
pub(super) const ATOMIC_WORD: u64 = 256;
const RESULT: u64 = 512;
const WORDS: usize = 64 << 10;

/// How much is moved. A simulated node is asked for every path, not for rates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Bytes of a zone whose every byte is checked.
    pub checked: usize,
    /// Bytes of a transfer that is timed, at least `checked`; 0 without a clock.
    pub timed: usize,
    /// The most CTAs of a kernel.
    pub grid: u32,
    /// Round trips of an echo, dependent loads, small copies.
    pub rounds: u32,
    /// Additions of each thread.
    pub additions: u32,
}

impl Sizes {
    pub fn of(clock: bool) -> Sizes {
        match clock {
            true => Sizes {
                checked: 4 << 20,
                timed: 32 << 20,
                grid: u32::MAX,
                rounds: 1000,
                additions: 16,
            },
            false => Sizes {
                checked: 32 << 10,
                timed: 0,
                grid: 2,
                rounds: 16,
                additions: 2,
            },
        }
    }

    /// Bytes from the start of one area to the next.
    fn area(&self) -> usize {
        Area::bytes(self.checked.max(self.timed))
    }
}

/// An area as one device addresses it, and how much of its zone is meant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area {
    pub ptr: DevicePtr,
    pub zone: usize,
    pub seed: u64,
}

impl Area {
    /// The first byte between the guards.
    pub fn zone_ptr(&self) -> DevicePtr {
        self.ptr + (GUARD * VECTOR) as u64
    }

    /// What the kernel is told of it.
    pub fn params(&self) -> TwParams {
        TwParams {
            x: self.ptr,
            m: (self.zone / VECTOR) as u32,
            n: GUARD as u32,
            hash: self.seed,
            ..TwParams::default()
        }
    }

    /// Bytes of an area with a zone of so many.
    pub const fn bytes(zone: usize) -> usize {
        zone + 2 * GUARD * VECTOR
    }

    /// What a check found, in words; `None`: all as it should be.
    pub fn verdict(&self, found: &TwProbeResult) -> Option<String> {
        let (wrong, vectors) = (found.wrong, self.zone / VECTOR + 2 * GUARD);
        if found.seen != vectors as u64 {
            return Some(format!("{} of {vectors} vectors were looked at", found.seen));
        }
        let index = u64::from(found.first).checked_sub(1).filter(|_| wrong > 0)?;
        let offset = index as i64 * VECTOR as i64 - (GUARD * VECTOR) as i64;
        let inside = (0..self.zone as i64).contains(&offset);
        let place = if inside { "" } else { ", outside what was sent" };
        Some(format!(
            "{wrong} of {vectors} vectors of {VECTOR} bytes are not as they were sent, the first at byte {offset}{place}"
        ))
    }
}

/// One device, ready.
#[derive(Debug)]
pub(super) struct Bench {
    driver: Arc<dyn Driver>,
    pub place: Place,
    pub stream: Stream,
    /// CTAs of a launch over all SMs.
    pub grid: u32,
    pub sizes: Sizes,
    memory: Option<Physical>,
    bytes: usize,
    /// All of its memory, as this device maps it for itself.
    own: Option<DevicePtr>,
}

impl Bench {
    pub fn new(driver: &Arc<dyn Driver>, device: usize) -> Result<Bench> {
        let place = Place {
            device,
            share: 0,
            shares: 1,
        };
        driver.load_kernels(place)?;
        let stream = driver.stream_create(place)?;
        // Whole before anything else can fail: dropped, it gives back what it has by then.
        let mut bench = Bench {
            driver: driver.clone(),
            place,
            stream,
            grid: 1,
            sizes: Sizes::of(false),
            memory: None,
            bytes: 0,
            own: None,
        };
        bench.sizes = Sizes::of(bench.timed(|| Ok(()))?.is_some());
        let per_sm = driver.ctas_per_sm("probe", bench.launch_of(1), place)?;
        let resident = per_sm.saturating_mul(driver.place_info(place)?.sms);
        bench.grid = resident.clamp(1, bench.sizes.grid);
        let granularity = driver.physical_granularity(place)?.max(1);
        bench.bytes = (WORDS + 2 * bench.sizes.area()).next_multiple_of(granularity);
        let memory = *bench.memory.insert(driver.physical_create(place, bench.bytes)?);
        let own = *bench.own.insert(driver.physical_map(memory, bench.bytes, &[place])?);
        driver.fill(own, 0, WORDS, stream)?;
        driver.stream_synchronize(stream)?;
        Ok(bench)
    }

    /// Its memory, mapped for another device, until the mapping is dropped.
    pub fn map_for(&self, other: &Bench) -> Result<Mapping> {
        let (Some(memory), bytes) = (self.memory, self.bytes) else {
            return Err(crate::error::Error::bad_argument(
                "memory",
                "none",
                "a device with memory",
            ));
        };
        Ok(Mapping {
            driver: self.driver.clone(),
            ptr: self.driver.physical_map(memory, bytes, &[other.place])?,
            bytes,
            area: self.sizes.area(),
        })
    }

    /// Its memory as it maps it for itself.
    fn own(&self, offset: u64) -> DevicePtr {
        self.own.unwrap_or(0) + offset
    }

    /// What its copy engine sends.
    pub fn source(&self, zone: usize, seed: u64) -> Area {
        let ptr = self.own((WORDS + self.sizes.area()) as u64);
        Area { ptr, zone, seed }
    }

    fn launch_of(&self, grid: u32) -> Launch {
        Launch {
            grid,
            threads: abi::TW_PROBE_THREADS,
            shared: 0,
            cluster: 1,
        }
    }

    /// Enqueues the kernel on so many CTAs.
    pub fn enqueue(&self, grid: u32, mode: u32, params: TwParams) -> Result<()> {
        let params = TwParams {
            k: mode,
            out: self.own(RESULT),
            ..params
        };
        self.driver.launch("probe", self.launch_of(grid), &params, self.stream)
    }

    /// Enqueues work on an area by all SMs.
    pub fn enqueue_on(&self, mode: u32, area: &Area) -> Result<()> {
        self.enqueue(self.grid, mode, area.params())
    }

    /// Has the next launch find an empty result.
    pub fn clear(&self) -> Result<()> {
        self.driver.fill(self.own(RESULT), 0, PROBE_RESULT_BYTES, self.stream)
    }

    /// Waits for what was enqueued, and reads what it found since the last `clear`.
    pub fn finish(&self) -> Result<TwProbeResult> {
        let mut bytes = [0; PROBE_RESULT_BYTES];
        self.driver.copy_out(&mut bytes, self.own(RESULT), self.stream)?;
        Ok(TwProbeResult::from_bytes(bytes))
    }

    /// Works on an area, to the end.
    pub fn run_on(&self, mode: u32, area: &Area) -> Result<TwProbeResult> {
        self.clear()?;
        self.enqueue_on(mode, area)?;
        self.finish()
    }

    /// Milliseconds of what `enqueue` enqueues; `None` where the machine has no clock.
    pub fn timed(&self, enqueue: impl FnOnce() -> Result<()>) -> Result<Option<f64>> {
        let events = Events::new(self)?;
        let [start, end] = [&events.0[0], &events.0[1]].map(|event| event.1);
        self.driver.event_record(start, self.stream)?;
        enqueue()?;
        self.driver.event_record(end, self.stream)?;
        self.driver.stream_synchronize(self.stream)?;
        self.driver.event_elapsed_ms(start, end)
    }

    /// Whether the device still does what it is told.
    pub fn alive(&self) -> Result<()> {
        self.clear()?;
        self.driver.stream_synchronize(self.stream)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Nobody is left to hear of a failure. The stream runs dry first; what cannot be unmapped must not be released.
        let _ = self.driver.stream_destroy(self.stream);
        let unmapped = self
            .own
            .is_none_or(|own| self.driver.physical_unmap(own, self.bytes).is_ok());
        if let (true, Some(memory)) = (unmapped, self.memory) {
            let _ = self.driver.physical_release(memory);
        }
    }
}

/// A device's memory, mapped for it and for another.
#[derive(Debug)]
pub(super) struct Mapping {
    driver: Arc<dyn Driver>,
    ptr: DevicePtr,
    bytes: usize,
    area: usize,
}

impl Mapping {
    pub fn word(&self, at: u64) -> DevicePtr {
        self.ptr + at
    }

    /// What peers store, load and copy.
    pub fn target(&self, zone: usize, seed: u64) -> Area {
        debug_assert!(Area::bytes(zone) <= self.area);
        let ptr = self.ptr + WORDS as u64;
        Area { ptr, zone, seed }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Nobody is left to hear of a failure; every launch over it has been waited for, or its device is lost.
        let _ = self.driver.physical_unmap(self.ptr, self.bytes);
    }
}

/// Two events, ended on drop.
struct Events(Vec<(Arc<dyn Driver>, Event)>);

impl Events {
    fn new(bench: &Bench) -> Result<Events> {
        let mut events = Events(Vec::new());
        for _ in 0..2 {
            let event = bench.driver.event_create(bench.place)?;
            events.0.push((bench.driver.clone(), event));
        }
        Ok(events)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        for (driver, event) in &self.0 {
            // Nobody is left to hear of a failure.
            let _ = driver.event_destroy(*event);
        }
    }
}
