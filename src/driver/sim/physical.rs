//! Physical memory: a memfd that lives on a device, is mapped once in this process, and can be handed to others.

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags};

use super::arena::{Allocation, Allocations, Arena, GRANULARITY, os_error};
use super::shadow::{HOST, UNWRITTEN};
use crate::error::{Error, Result};

/// What a memfd is called, with the number of its device behind it.
const NAME: &str = "tileweave-sim-";

#[derive(Debug)]
pub(super) struct Physical {
    fd: Arc<OwnedFd>,
    pub device: usize,
    pub bytes: u64,
    inode: (u64, u64),
    /// Another process may write it: nothing is known of its content.
    pub foreign: bool,
    /// Another node's arena made it.
    imported: bool,
    pub mapped_at: Option<u64>,
    handles: u32,
    /// Times that it is bound to multicast objects.
    pub bound: u32,
}

impl Arena {
    pub fn physical_create(&self, device: usize, bytes: usize) -> Result<u64> {
        check_physical_size(bytes)?;
        let fd = rustix::fs::memfd_create(format!("{NAME}{device}"), rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(os_error("memfd_create"))?;
        rustix::fs::ftruncate(&fd, bytes as u64).map_err(os_error("ftruncate"))?;
        self.add_physical(fd, device, bytes, false)
    }

    /// The memory lives where its name says; `device`: where the system gives no names.
    pub fn physical_import(&self, fd: BorrowedFd<'_>, device: usize, bytes: usize) -> Result<u64> {
        check_physical_size(bytes)?;
        let device = named_device(fd).unwrap_or(device);
        if device >= self.layout.devices {
            let value = format!("memory of device {device}");
            let expected = format!(
                "that of one below {}: nodes that share memory have one SimConfig",
                self.layout.devices
            );
            return Err(Error::bad_argument("fd", value, expected));
        }
        let fd = fd.try_clone_to_owned().map_err(|e| Error::Driver {
            call: "dup",
            code: e.raw_os_error().unwrap_or(0).into(),
            message: e.to_string(),
        })?;
        let stat = rustix::fs::fstat(&fd).map_err(os_error("fstat"))?;
        if stat.st_size as u64 != bytes as u64 {
            return Err(Error::bad_argument(
                "bytes",
                bytes,
                format!("the exported size, {}", stat.st_size),
            ));
        }
        self.add_physical(fd, device, bytes, true)
    }

    fn add_physical(&self, fd: OwnedFd, device: usize, bytes: usize, foreign: bool) -> Result<u64> {
        let stat = rustix::fs::fstat(&fd).map_err(os_error("fstat"))?;
        let inode = (stat.st_dev as u64, stat.st_ino as u64);
        let mut a = self.lock();
        // Memory of this process that comes back through its own descriptor stays the memory it is.
        if let Some((id, known)) = a.physical.iter_mut().find(|(_, p)| p.inode == inode) {
            known.handles += 1;
            return Ok(*id);
        }
        let id = a.next_physical;
        a.next_physical += 1;
        let fd = Arc::new(fd);
        a.physical.insert(
            id,
            Physical {
                fd,
                device,
                bytes: bytes as u64,
                inode,
                foreign,
                imported: foreign,
                mapped_at: None,
                handles: 1,
                bound: 0,
            },
        );
        Ok(id)
    }

    /// The device that it lives on.
    pub fn physical_device(&self, id: u64) -> Result<usize> {
        let a = self.lock();
        a.physical.get(&id).map(|p| p.device).ok_or_else(|| bad_physical(id))
    }

    pub fn physical_map(&self, id: u64, bytes: usize, accessors: u32) -> Result<u64> {
        let mut a = self.lock();
        let p = a.physical.get(&id).ok_or_else(|| bad_physical(id))?;
        let (device, fd, foreign, imported) = (p.device, p.fd.clone(), p.foreign, p.imported);
        if p.bytes != bytes as u64 {
            return Err(Error::bad_argument(
                "bytes",
                bytes,
                format!("the memory's size, {}", p.bytes),
            ));
        }
        if let Some(start) = p.mapped_at {
            if let Some(Allocation {
                accessors: all,
                physical: Some((_, times)),
                ..
            }) = a.live.get_mut(&start)
            {
                *all |= accessors;
                *times += 1;
            }
            return Ok(start);
        }
        let start = a
            .take(self.slice(device), bytes as u64)
            .ok_or_else(|| self.no_room(device, bytes))?;
        // SAFETY: the range was free: part of the reservation, and nobody's.
        unsafe {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            let flags = MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE;
            rustix::mm::mmap(start as *mut c_void, bytes, prot, flags, fd.as_fd(), 0).map_err(os_error("mmap"))?;
        }
        self.set_shadow(start, bytes as u64, if foreign { HOST } else { UNWRITTEN })?;
        a.live.insert(
            start,
            Allocation {
                bytes: bytes as u64,
                device,
                accessors,
                physical: Some((id, 1)),
            },
        );
        if let Some(p) = a.physical.get_mut(&id) {
            p.mapped_at = Some(start);
        }
        if foreign {
            self.outside.changed(imported, true);
        }
        Ok(start)
    }

    pub fn physical_unmap(&self, start: u64, bytes: usize) -> Result<()> {
        let mut a = self.lock();
        let Some(Allocation {
            bytes: mapped,
            physical: Some((id, times)),
            ..
        }) = a.live.get_mut(&start)
        else {
            return Err(Error::bad_argument(
                "ptr",
                format!("{start:#x}"),
                "an address that physical_map gave",
            ));
        };
        if *mapped != bytes as u64 {
            return Err(Error::bad_argument(
                "bytes",
                bytes,
                format!("what was mapped, {mapped}"),
            ));
        }
        *times -= 1;
        if *times > 0 {
            return Ok(());
        }
        let id = *id;
        self.remove(&mut a, start)?;
        if let Some(p) = a.physical.get_mut(&id) {
            p.mapped_at = None;
            if p.foreign {
                self.outside.changed(p.imported, false);
            }
        }
        drop_unused(&mut a, id);
        Ok(())
    }

    pub fn physical_release(&self, id: u64) -> Result<()> {
        let mut a = self.lock();
        let p = a
            .physical
            .get_mut(&id)
            .filter(|p| p.handles > 0)
            .ok_or_else(|| bad_physical(id))?;
        p.handles -= 1;
        drop_unused(&mut a, id);
        Ok(())
    }

    /// The memory's descriptor. From now on another process may write it, so its reads are no longer checked.
    pub fn physical_export(&self, id: u64) -> Result<OwnedFd> {
        let mut a = self.lock();
        let p = a
            .physical
            .get_mut(&id)
            .filter(|p| p.handles > 0)
            .ok_or_else(|| bad_physical(id))?;
        let fd = rustix::io::fcntl_dupfd_cloexec(&*p.fd, 3).map_err(os_error("dup"))?;
        let first = !std::mem::replace(&mut p.foreign, true);
        if let Some(start) = p.mapped_at {
            if first {
                self.outside.changed(false, true);
            }
            let bytes = p.bytes;
            // SAFETY: the mapping is live (its physical memory says so) and its shadow is mapped. The executor does not
            // run kernels on memory that is still being exchanged; a granule it marks in this moment keeps its mark.
            for granule in unsafe { self.layout.shadow_of(start, bytes) } {
                *granule = if *granule == UNWRITTEN { HOST } else { *granule };
            }
        }
        Ok(fd)
    }
}

pub(super) fn drop_unused(a: &mut Allocations, id: u64) {
    if a.physical
        .get(&id)
        .is_some_and(|p| p.handles == 0 && p.bound == 0 && p.mapped_at.is_none())
    {
        a.physical.remove(&id);
    }
}

pub(super) fn bad_physical(id: u64) -> Error {
    Error::bad_argument("memory", id, "a handle of this node that was not released")
}

/// The device that memory was made on, by the name that its descriptor has in every process.
fn named_device(fd: BorrowedFd<'_>) -> Option<usize> {
    let link = rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new()).ok()?;
    let name = link.to_str().ok()?.strip_prefix("/memfd:")?.strip_prefix(NAME)?;
    name.split(' ').next()?.parse().ok()
}

fn check_physical_size(bytes: usize) -> Result<()> {
    if bytes == 0 || !bytes.is_multiple_of(GRANULARITY) {
        return Err(Error::bad_argument(
            "bytes",
            bytes,
            format!("a multiple of {GRANULARITY}, above 0"),
        ));
    }
    Ok(())
}
