//! Page-locked words that kernels write and the host reads: a page at a time, cut into equal blocks. Locking synchronises
//! with the device, so a page is taken when a block is asked for and none is free, and stays until the driver ends.

use std::sync::Mutex;

use cudarc::driver::sys;

use super::device::{Context, Current, Handle, lock};
use crate::driver::{HOST_WORDS, HostWords};
use crate::error::{Error, Result};

const BLOCK: usize = HOST_WORDS * 8;
const PAGE: usize = 64 << 10;

/// Pages by the context that they were locked in.
#[derive(Debug, Default)]
pub(super) struct Stock(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    all: Vec<(Context, Handle<u8>)>,
    /// Addresses of blocks that nobody has.
    free: Vec<usize>,
}

impl Stock {
    /// A block of zeroes. Pages are portable: whichever context locked one, kernels of every context reach it, under the
    /// address that the host has for it (unified addressing, which every 64-bit system has).
    pub(super) fn take(&self, context: Context) -> Result<HostWords> {
        let mut pages = lock(&self.0);
        if pages.free.is_empty() {
            let _current = Current::push(context)?;
            let mut page = std::ptr::null_mut();
            let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
            // SAFETY: `page` outlives the call; freed in `drop`.
            unsafe { cu!(cuMemHostAlloc(&mut page, PAGE, flags)) }?;
            let page = Handle(page.cast::<u8>());
            pages.all.push((context, page));
            let first = page.0.expose_provenance();
            pages
                .free
                .extend((0..PAGE / BLOCK).rev().map(|block| first + block * BLOCK));
        }
        let Some(host) = pages.free.pop() else {
            return Err(Error::bad_argument(
                "host words",
                0,
                "a block of a page that was just locked",
            ));
        };
        // SAFETY: the block lies in a page of this stock, and nobody has it.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(host).write_bytes(0, BLOCK) };
        Ok(HostWords {
            host,
            device: host as u64,
        })
    }

    pub(super) fn give_back(&self, words: HostWords) -> Result<()> {
        let mut pages = lock(&self.0);
        let (host, free) = (words.host, pages.free.contains(&words.host));
        let ours = pages.all.iter().any(|(_, page)| {
            let at = host.wrapping_sub(page.0.addr());
            at < PAGE && at.is_multiple_of(BLOCK)
        });
        if free || !ours {
            let expected = "words that host_words gave and that were not given back";
            return Err(Error::bad_argument("words", format!("{host:#x}"), expected));
        }
        pages.free.push(host);
        Ok(())
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        let pages = self.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (context, page) in pages.all.drain(..) {
            let Ok(_current) = Current::push(context) else { continue };
            // SAFETY: locked in `take`, freed once; the driver that owned this stock is gone, so nobody uses its blocks. There
            // is nobody left to act on an error.
            let _ = unsafe { cu!(cuMemFreeHost(page.0.cast())) };
        }
    }
}
