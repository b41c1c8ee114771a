//! Numbers of words, in device memory: tokens and targets.

use std::marker::PhantomData;

use crate::driver::DevicePtr;

/// Numbers in device memory, as plain values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawIds {
    pub ptr: DevicePtr,
    pub count: usize,
    /// Group and rank whose buffer they are in; `None` for memory that the crate does not know.
    pub owner: Option<(u64, usize)>,
}

/// Numbers of words of a vocabulary that a kernel reads: `i64`, one behind the other, as PyTorch has token ids.
///
/// Made from a [`Buffer`](crate::Buffer) by [`Buffer::ids`](crate::Buffer::ids), or from a raw address.
#[derive(Debug, Clone, Copy)]
pub struct Ids<'a> {
    pub(crate) raw: RawIds,
    pub(crate) memory: PhantomData<&'a [i64]>,
}

impl Ids<'_> {
    /// Of memory that the crate did not allocate. Nothing is checked before a launch.
    ///
    /// # Safety
    /// `ptr` is a device address, a multiple of 8, that the launching rank's device can read; `count` numbers from there stay
    /// allocated, and are not written, until the stream has run what was launched with them.
    pub unsafe fn from_raw<'a>(ptr: u64, count: usize) -> Ids<'a> {
        Ids {
            raw: RawIds {
                ptr,
                count,
                owner: None,
            },
            memory: PhantomData,
        }
    }

    /// Device address of the first.
    pub fn ptr(&self) -> u64 {
        self.raw.ptr
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.raw.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.raw.count == 0
    }
}
