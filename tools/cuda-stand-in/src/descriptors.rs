//! Physical memory from process to process, by file descriptors.

use std::collections::btree_map::Entry;
use std::fs::File;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use tileweave::driver::{Driver, Multicast, Physical};

use crate::answer::{INVALID, Out, UNSUPPORTED, code_of};
use crate::machine::machine;
use crate::memory::current_ordinal;
use crate::virtual_memory::{Named, POSIX, name, named};

calls! {
    fn cuMemExportToShareableHandle(to: Out<i32>, handle: u64, kind: u32, flags: u64) {
        let machine = machine()?;
        let what = named(machine, handle)?;
        if kind != POSIX || flags != 0 {
            return Err(UNSUPPORTED);
        }
        let fd = match what.ordinal {
            None => machine.sim.multicast_export(Multicast(handle)),
            Some(_) => machine.sim.physical_export(Physical(handle)),
        };
        let fd = fd.map_err(code_of)?;
        // The caller's from here on.
        let raw = fd.into_raw_fd();
        to.put(raw).inspect_err(|_| {
            // SAFETY: just made, and nobody has heard of it.
            drop(unsafe { OwnedFd::from_raw_fd(raw) });
        })
    }

    fn cuMemImportFromShareableHandle(handle: Out<u64>, descriptor: *mut std::ffi::c_void, kind: u32) {
        let machine = machine()?;
        let raw = i32::try_from(descriptor.addr()).ok().filter(|fd| *fd >= 0).ok_or(INVALID)?;
        if kind != POSIX {
            return Err(UNSUPPORTED);
        }
        // SAFETY: open, by the word of whoever called the C function, and not closed meanwhile.
        let fd = unsafe { BorrowedFd::borrow_raw(raw) };
        let file = File::from(fd.try_clone_to_owned().map_err(|_| INVALID)?);
        let bytes = file.metadata().map_err(|_| INVALID)?.len() as usize;
        // It lives where it was made, whatever is said here.
        let memory = machine.sim.physical_import(fd, machine.whole(0), bytes).map_err(code_of)?;
        // CUDA does not say what it answers for memory of a device that is not visible. Here: the one that is asked from.
        let ordinal = match machine.sim.physical_owner(memory).map_err(code_of)? {
            Some(ordinal) => ordinal,
            None => current_ordinal(machine).unwrap_or(0),
        };
        let mut tables = machine.lock();
        let what = Named {
            bytes,
            ordinal: Some(ordinal),
            team: Vec::new(),
        };
        match tables.named.entry(memory.0) {
            Entry::Occupied(_) => *tables.imports.entry(memory.0).or_default() += 1,
            Entry::Vacant(place) => drop(place.insert(what)),
        }
        name(memory.0);
        handle.put(memory.0)
    }
}
