//! One GPU: its primary context (shared with everything else in the process that uses CUDA), a memory pool and two
//! streams of its own.
//!
//! Nothing here may need the device idle while one kernel waits for another. So ordinary memory comes from a pool that
//! never shrinks and never waits for another stream's work; the memory that peeks and pokes go through is page-locked
//! when the device is opened (locking synchronises); and allocations have a stream apart from the one that pokes.

use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys;

use super::shares::{self, Split};
use crate::error::Result;

/// Bytes of page-locked memory that peeks and pokes go through.
pub(super) const STAGING: usize = 1 << 20;

/// An opaque handle of the driver.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Handle<T>(pub(super) *mut T);

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<T> {}

// SAFETY: a handle is a name for an object inside the driver, never dereferenced here; the driver API is thread-safe and
// ties no object to a thread.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Handle<T> {}

pub(super) type Context = Handle<sys::CUctx_st>;
pub(super) type StreamHandle = Handle<sys::CUstream_st>;

/// What is known of a device without a context.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) ordinal: usize,
    pub(super) device: sys::CUdevice,
    pub(super) name: String,
    pub(super) capability: (u32, u32),
    pub(super) sms: u32,
    pub(super) shared_per_cta: u32,
}

/// A device in use.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) facts: Facts,
    pub(super) context: Context,
    pub(super) pool: Handle<sys::CUmemPoolHandle_st>,
    pub(super) alloc_stream: StreamHandle,
    pub(super) copier: Mutex<Copier>,
    // By number of shares.
    splits: Mutex<HashMap<usize, Arc<Split>>>,
}

/// The stream of peeks and pokes, and the page-locked memory they go through.
#[derive(Debug)]
pub(super) struct Copier {
    pub(super) stream: StreamHandle,
    pub(super) staging: Handle<u8>,
}

/// Makes a context current until it is dropped, then what was current before.
pub(super) struct Current(());

impl Current {
    pub(super) fn push(context: Context) -> Result<Current> {
        // SAFETY: the context is alive: devices and their shares live as long as the driver, which the caller borrows.
        unsafe { cu!(cuCtxPushCurrent_v2(context.0)) }?;
        Ok(Current(()))
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        let mut popped = std::ptr::null_mut();
        // SAFETY: pops what `push` pushed on this thread (`Current` is created nowhere else and guards nest).
        let _ = unsafe { cu!(cuCtxPopCurrent_v2(&mut popped)) };
    }
}

impl Facts {
    /// Asks the driver; makes no context.
    pub(super) fn of(ordinal: usize) -> Result<Facts> {
        let mut device = 0;
        // SAFETY: `device` outlives the call.
        unsafe { cu!(cuDeviceGet(&mut device, ordinal as i32)) }?;
        let mut name = [0; 256];
        // SAFETY: the driver writes at most the given length and ends the name with NUL.
        unsafe { cu!(cuDeviceGetName(name.as_mut_ptr(), name.len() as i32, device)) }?;
        // SAFETY: NUL-terminated, see above; the last byte stays 0 in any case.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        use sys::CUdevice_attribute_enum as Attribute;
        Ok(Facts {
            ordinal,
            device,
            name,
            capability: (
                attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32,
                attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)? as u32,
            ),
            sms: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
            shared_per_cta: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as u32,
        })
    }
}

pub(super) fn attribute(device: sys::CUdevice, which: sys::CUdevice_attribute) -> Result<i32> {
    let mut value = 0;
    // SAFETY: `value` outlives the call.
    unsafe { cu!(cuDeviceGetAttribute(&mut value, which, device)) }?;
    Ok(value)
}

impl Device {
    /// Retains the primary context and makes the pool, the streams and the staging memory.
    pub(super) fn open(facts: Facts) -> Result<Device> {
        let mut context = std::ptr::null_mut();
        // SAFETY: `context` outlives the call; released in `drop`.
        unsafe { cu!(cuDevicePrimaryCtxRetain(&mut context, facts.device)) }?;
        // From here on a failure drops the device, which gives back what was made: absent handles are null.
        let mut device = Device {
            facts,
            context: Handle(context),
            pool: Handle(std::ptr::null_mut()),
            alloc_stream: Handle(std::ptr::null_mut()),
            copier: Mutex::new(Copier {
                stream: Handle(std::ptr::null_mut()),
                staging: Handle(std::ptr::null_mut()),
            }),
            splits: Mutex::new(HashMap::new()),
        };
        let _current = Current::push(device.context)?;
        device.pool = create_pool(device.facts.ordinal)?;
        device.alloc_stream = create_stream()?;
        let mut staging = std::ptr::null_mut();
        // SAFETY: `staging` outlives the call; freed in `drop`.
        unsafe { cu!(cuMemHostAlloc(&mut staging, STAGING, 0)) }?;
        let copier = device.copier.get_mut().unwrap_or_else(PoisonError::into_inner);
        copier.staging = Handle(staging.cast());
        copier.stream = create_stream()?;
        Ok(device)
    }

    /// The device's SMs in equal shares; made at first use.
    pub(super) fn split(&self, count: usize) -> Result<Arc<Split>> {
        let mut splits = lock(&self.splits);
        if let Some(split) = splits.get(&count) {
            return Ok(split.clone());
        }
        let _current = Current::push(self.context)?;
        let split = Arc::new(shares::split(&self.facts, count));
        splits.insert(count, split.clone());
        Ok(split)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let Ok(current) = Current::push(self.context) else {
            return;
        };
        lock(&self.splits).clear();
        let copier = self.copier.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: each handle was made in `open` and is null where that failed; the driver that owned this device is
        // gone, so nobody uses them. Errors are ignored: there is nobody left to act on them.
        unsafe {
            if !copier.stream.0.is_null() {
                let _ = cu!(cuStreamDestroy_v2(copier.stream.0));
            }
            if !copier.staging.0.is_null() {
                let _ = cu!(cuMemFreeHost(copier.staging.0.cast()));
            }
            if !self.alloc_stream.0.is_null() {
                let _ = cu!(cuStreamDestroy_v2(self.alloc_stream.0));
            }
            if !self.pool.0.is_null() {
                let _ = cu!(cuMemPoolDestroy(self.pool.0));
            }
        }
        drop(current);
        // SAFETY: gives back the reference that `open` took.
        let _ = unsafe { cu!(cuDevicePrimaryCtxRelease_v2(self.facts.device)) };
    }
}

/// A stream that never synchronises with the legacy default stream, in the current context.
pub(super) fn create_stream() -> Result<StreamHandle> {
    let mut stream = std::ptr::null_mut();
    let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
    // SAFETY: `stream` outlives the call; a context is current.
    unsafe { cu!(cuStreamCreate(&mut stream, flags)) }?;
    Ok(Handle(stream))
}

/// A pool that keeps what it has and never makes an allocation wait for work in another stream.
fn create_pool(ordinal: usize) -> Result<Handle<sys::CUmemPoolHandle_st>> {
    // SAFETY: all-zero is a valid value: null pointers, integers, and enums that have a 0.
    let mut props: sys::CUmemPoolProps = unsafe { std::mem::zeroed() };
    props.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    props.location = location(ordinal);
    let mut pool = std::ptr::null_mut();
    // SAFETY: both outlive the call.
    unsafe { cu!(cuMemPoolCreate(&mut pool, &props)) }?;
    use sys::CUmemPool_attribute_enum as Attribute;
    let (mut keep, mut off) = (u64::MAX, 0i32);
    // SAFETY: the attributes are a u64 and an int (cuda.h), and both outlive the calls.
    unsafe {
        let threshold = Attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        let waiting_reuse = Attribute::CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES;
        cu!(cuMemPoolSetAttribute(pool, threshold, (&raw mut keep).cast()))
            .and_then(|()| cu!(cuMemPoolSetAttribute(pool, waiting_reuse, (&raw mut off).cast())))
            .inspect_err(|_| drop(cu!(cuMemPoolDestroy(pool))))?;
    }
    Ok(Handle(pool))
}

/// A device as a place of memory. In all versions of cuda.h two ints lead the struct: the type and the ordinal; the
/// second has no name in common.
pub(super) fn location(ordinal: usize) -> sys::CUmemLocation {
    // SAFETY: all-zero is a valid value: the enum has a 0.
    let mut location: sys::CUmemLocation = unsafe { std::mem::zeroed() };
    location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    const { assert!(size_of::<sys::CUmemLocation>() >= 8) };
    // SAFETY: the second int lies at offset 4, inside the struct (asserted), and any int is valid there.
    unsafe { (&raw mut location).cast::<i32>().add(1).write(ordinal as i32) };
    location
}

/// The ordinal in a location that names a device.
pub(super) fn ordinal_of(location: &sys::CUmemLocation) -> usize {
    // SAFETY: as in `location`; it is initialised, since the driver or `location` wrote it.
    unsafe { (&raw const *location).cast::<i32>().add(1).read() as usize }
}

/// Locks; a panic elsewhere leaves these maps and handles whole, so poisoning is ignored.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
