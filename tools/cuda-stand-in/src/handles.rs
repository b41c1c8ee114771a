//! Tables of what callers hold by handles. A handle is a number that is no address: its upper bits tell the kind, so
//! that a stream is never taken for an event; numbers are not used again, so that a handle of something that is gone is
//! found out.

use std::collections::BTreeMap;

use crate::answer::{Answer, BAD_HANDLE};

/// What kinds of handles there are: their upper bits. Far from addresses of user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Of {
    Context = 0x51b1,
    Stream = 0x51b2,
    Event = 0x51b3,
    Pool = 0x51b4,
    Library = 0x51b5,
    Graph = 0x51b6,
    Executable = 0x51b7,
    Partition = 0x51b8,
    Kernel = 0x51b9,
}

const SHIFT: u32 = 48;

/// What is alive of one kind.
#[derive(Debug)]
pub(crate) struct Handles<T> {
    kind: Of,
    next: usize,
    live: BTreeMap<usize, T>,
}

impl<T> Handles<T> {
    pub fn new(kind: Of) -> Handles<T> {
        Handles {
            kind,
            next: 1,
            live: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, value: T) -> usize {
        let handle = number(self.kind, self.next);
        self.next += 1;
        self.live.insert(handle, value);
        handle
    }

    pub fn get(&self, handle: usize) -> Answer<&T> {
        self.live.get(&handle).ok_or(BAD_HANDLE)
    }

    pub fn get_mut(&mut self, handle: usize) -> Answer<&mut T> {
        self.live.get_mut(&handle).ok_or(BAD_HANDLE)
    }

    pub fn remove(&mut self, handle: usize) -> Answer<T> {
        self.live.remove(&handle).ok_or(BAD_HANDLE)
    }

    pub fn all(&self) -> impl Iterator<Item = (usize, &T)> {
        self.live.iter().map(|(handle, value)| (*handle, value))
    }

    pub fn len(&self) -> usize {
        self.live.len()
    }
}

/// The handle of a kind's `index`th.
pub(crate) fn number(kind: Of, index: usize) -> usize {
    (kind as usize) << SHIFT | index << 4
}

/// Which of a kind a handle is.
pub(crate) fn index(kind: Of, handle: usize) -> Answer<usize> {
    match handle >> SHIFT == kind as usize && handle.is_multiple_of(16) {
        true => Ok((handle & ((1 << SHIFT) - 1)) >> 4),
        false => Err(BAD_HANDLE),
    }
}

/// As callers get it.
pub(crate) fn pointer<T>(handle: usize) -> *mut T {
    std::ptr::without_provenance_mut(handle)
}
