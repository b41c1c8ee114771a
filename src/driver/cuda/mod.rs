//! The CUDA driver: `docs/cuda.md` tells how, and what of it has been seen on a GPU.
//!
//! Plain calls through cudarc's `sys`, which loads the driver library at run time: one binary runs with and without a GPU.

/// Calls a function of the driver library inside an `unsafe` block and maps its result.
macro_rules! cu {
    ($function:ident($($argument:expr),* $(,)?)) => {
        $crate::driver::cuda::library::check(
            stringify!($function),
            ::cudarc::driver::sys::$function($($argument),*),
        )
    };
}

mod calls;
mod copies;
mod device;
mod graphs;
mod host_words;
mod identity;
mod imports;
mod kernels;
mod library;
mod multicast;
mod shares;
mod tensor_map;
mod virtual_memory;
mod wait;

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

use cudarc::driver::sys;

use self::device::{Context, Current, Device, Facts, Handle, lock};
use self::kernels::Kernels;
use self::library::{Library, unavailable};
use super::{DevicePtr, Place, Stream};
use crate::error::{Error, Result};

/// The environment variable that sets how many kernels one device takes in at once.
const CONNECTIONS: &str = "CUDA_DEVICE_MAX_CONNECTIONS";

/// This machine's GPUs.
pub struct CudaDriver {
    // Fields are dropped in this order: kernels and host words before the devices whose contexts they need, all of them
    // before the library they call.
    kernels: Kernels,
    host_words: host_words::Stock,
    imports: imports::Imports,
    devices: Vec<OnceLock<Device>>,
    facts: Vec<Facts>,
    opening: Mutex<()>,
    // The context and place of every stream made here; foreign streams are asked for theirs.
    streams: Mutex<HashMap<usize, (Context, Place)>>,
    archs: &'static [&'static str],
    library: Library,
}

impl std::fmt::Debug for CudaDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaDriver")
            .field("version", &self.library.version)
            .field("devices", &self.facts)
            .finish()
    }
}

/// Asks for 32 hardware queues on every device, unless the user has asked for another number. Call it first thing in
/// `main`: CUDA reads it once, when the first context is made, and groups of more than 7 virtual ranks need it.
///
/// # Safety
/// No other thread may read or write the process's environment meanwhile (see [`std::env::set_var`]).
pub unsafe fn ask_for_queues() {
    if std::env::var_os(CONNECTIONS).is_none() {
        // SAFETY: the caller's word.
        unsafe { std::env::set_var(CONNECTIONS, "32") };
    }
}

/// Hardware queues of a device. Kernels in one queue run one after the other, so of two that wait for each other each needs
/// a queue of its own. CUDA's default is 8; it is at least 1.
fn hardware_queues() -> usize {
    std::env::var(CONNECTIONS)
        .ok()
        .and_then(|n| n.trim().parse().ok())
        .map_or(8, |n: usize| n.clamp(1, 32))
}

/// The CUDA version that the installed driver supports, major and minor.
///
/// # Errors
/// [`Error::Unavailable`] without a usable driver library.
pub fn driver_version() -> Result<(u32, u32)> {
    let version = library::open()?.version.unsigned_abs();
    Ok((version / 1000, version % 1000 / 10))
}

impl CudaDriver {
    /// Opens this machine's GPUs with the kernels of `fatbin`, built for `archs`; where it is `None`, `reason` says why.
    /// (See [`kernels`](crate::kernels): `CudaDriver::new(FATBIN, ARCHS, REASON)`.)
    ///
    /// # Errors
    /// [`Error::Unavailable`] without a usable driver library, a GPU or a fatbin; [`Error::KernelsNotBuilt`] where the
    /// fatbin holds nothing for any GPU here.
    pub fn new(fatbin: Option<&'static [u8]>, archs: &'static [&'static str], reason: &str) -> Result<CudaDriver> {
        let without_kernels = match fatbin {
            Some(_) => String::new(),
            None => format!("no kernels were built in: {reason}"),
        };
        let library = match library::open() {
            // Whoever installs a driver next should not have to come back for the kernels.
            Err(Error::Unavailable { reason, .. }) if fatbin.is_none() => {
                return Err(unavailable(format!("{reason}; also, {without_kernels}")));
            }
            other => other?,
        };
        let mut count = 0;
        // SAFETY: `count` outlives the call; the library is initialised.
        unsafe { cu!(cuDeviceGetCount(&mut count)) }?;
        let facts = (0..count as usize).map(Facts::of).collect::<Result<Vec<_>>>()?;
        let Some(first) = facts.first() else {
            return Err(unavailable("the driver library is there, but it sees no GPU".into()));
        };
        let Some(fatbin) = fatbin else {
            return Err(unavailable(without_kernels));
        };
        if !facts.iter().any(|device| covered(archs, device)) {
            return Err(not_built(archs, first));
        }
        Ok(CudaDriver {
            kernels: Kernels::open(fatbin)?,
            host_words: host_words::Stock::default(),
            imports: imports::Imports::default(),
            devices: facts.iter().map(|_| OnceLock::new()).collect(),
            facts,
            opening: Mutex::new(()),
            streams: Mutex::new(HashMap::new()),
            archs,
            library,
        })
    }

    /// The device of an ordinal, opened at first use.
    fn device(&self, ordinal: usize) -> Result<&Device> {
        let (Some(cell), Some(facts)) = (self.devices.get(ordinal), self.facts.get(ordinal)) else {
            return Err(Error::bad_argument(
                "device",
                ordinal,
                format!("below {}", self.devices.len()),
            ));
        };
        if let Some(device) = cell.get() {
            return Ok(device);
        }
        if !covered(self.archs, facts) {
            return Err(not_built(self.archs, facts));
        }
        // One thread opens; `OnceLock` alone cannot hold back a result that failed.
        let _opening = lock(&self.opening);
        if cell.get().is_none() {
            let device = Device::open(facts.clone())?;
            return Ok(cell.get_or_init(|| device));
        }
        self.device(ordinal)
    }

    /// The device of a place, and the context its work runs in: a share's green context, else the primary one.
    fn place(&self, place: Place) -> Result<(&Device, Context)> {
        let device = self.device(place.device)?;
        if place.shares == 0 || place.share >= place.shares {
            let value = format!("{} of {}", place.share, place.shares);
            return Err(Error::bad_argument(
                "share",
                value,
                "a number below the number of shares",
            ));
        }
        let split = device.split(place.shares)?;
        Ok((
            device,
            split
                .green
                .get(place.share)
                .map_or(device.context, |green| green.context),
        ))
    }

    /// Makes a stream's context current.
    fn enter(&self, stream: Stream) -> Result<(Current, sys::CUstream)> {
        let handle = std::ptr::with_exposed_provenance_mut(stream.0);
        let own = lock(&self.streams).get(&stream.0).copied();
        let context = match own {
            Some((context, _)) => context,
            None => context_of(handle)?,
        };
        Ok((Current::push(context)?, handle))
    }

    /// The place of a stream: for one that was not made here, the device of its context.
    fn place_of(&self, stream: Stream) -> Result<Place> {
        if let Some((_, place)) = lock(&self.streams).get(&stream.0) {
            return Ok(*place);
        }
        let (_current, _) = self.enter(stream)?;
        let mut device = 0;
        // SAFETY: `device` outlives the call; a context is current.
        unsafe { cu!(cuCtxGetDevice(&mut device)) }?;
        let ordinal = self.facts.iter().position(|facts| facts.device == device);
        let expected = || "a stream on a device of this driver".to_string();
        Ok(Place {
            device: ordinal
                .ok_or_else(|| Error::bad_argument("stream", format!("one on device {device}"), expected()))?,
            share: 0,
            shares: 1,
        })
    }

    fn facts(&self, name: &str, ordinal: usize) -> Result<&Facts> {
        let expected = || format!("below {}", self.facts.len());
        self.facts
            .get(ordinal)
            .ok_or_else(|| Error::bad_argument(name, ordinal, expected()))
    }

    /// That the driver library has the calls for multicast objects.
    fn check_multicast(&self) -> Result<()> {
        if self.library.multicast {
            return Ok(());
        }
        Err(Error::Unavailable {
            what: "a multicast object".into(),
            reason: "the driver library lacks the calls for it: a driver of CUDA 12.1 or later has them".into(),
        })
    }

    /// The device that a pointer's memory lives on; of another process's memory one that reaches it.
    fn device_of(&self, ptr: DevicePtr) -> Result<&Device> {
        match self.imports.reached_by(ptr) {
            Some(device) => self.device(device),
            None => self.device(copies::device_of(ptr)?),
        }
    }
}

/// The context that a stream belongs to.
fn context_of(stream: sys::CUstream) -> Result<Context> {
    let mut context = std::ptr::null_mut();
    // SAFETY: `context` outlives the call; that the stream is alive is the caller's word.
    unsafe { cu!(cuStreamGetCtx(stream, &mut context)) }?;
    Ok(Handle(context))
}

fn covered(archs: &[&str], facts: &Facts) -> bool {
    archs.iter().any(|arch| kernels::covers(arch, facts.capability))
}

fn not_built(archs: &[&str], facts: &Facts) -> Error {
    let (major, minor) = facts.capability;
    let built = archs.iter().map(|arch| arch.to_string()).collect();
    Error::KernelsNotBuilt {
        arch: format!("sm_{major}{minor} ({})", facts.name),
        built,
    }
}
