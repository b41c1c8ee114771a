//! What a rank's kernels tell the host while they run: words in host memory, read by one load each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::abi::TwReport;
use crate::driver::{DevicePtr, Driver, HOST_WORDS, HostWords, Place};
use crate::error::Result;

const WORDS: usize = size_of::<TwReport>() / 8;
const _: () = assert!(WORDS <= HOST_WORDS && size_of::<TwReport>().is_multiple_of(8));

/// A rank's [`TwReport`]. Given back when dropped: the owner sees to it that no kernel of the rank still runs.
#[derive(Debug)]
pub(crate) struct Report {
    driver: Arc<dyn Driver>,
    words: HostWords,
}

impl Report {
    pub fn new(driver: &Arc<dyn Driver>, place: Place) -> Result<Report> {
        Ok(Report {
            driver: driver.clone(),
            words: driver.host_words(place)?,
        })
    }

    /// Where kernels write it.
    pub fn device(&self) -> DevicePtr {
        self.words.device
    }

    /// Why the rank's kernels gave up (`TW_ABORT_*`); 0: they have not. What is read of another rank's memory behind it goes
    /// through the driver, which orders it.
    pub fn abort(&self) -> u64 {
        self.word(std::mem::offset_of!(TwReport, abort) / 8)
    }

    /// All of it, word by word: each as some operation left it, the whole not of one moment.
    pub fn read(&self) -> TwReport {
        let words: [u64; WORDS] = std::array::from_fn(|index| self.word(index));
        // SAFETY: TwReport is repr(C) of 64-bit integers alone, as many as the array has: every bit pattern is one of its values.
        unsafe { std::mem::transmute::<[u64; WORDS], TwReport>(words) }
    }

    /// Writes a word as a kernel would.
    #[cfg(test)]
    pub fn tell(&self, offset: usize, value: u64) {
        assert!(offset.is_multiple_of(8) && offset < 8 * WORDS);
        let at = std::ptr::with_exposed_provenance_mut::<u64>(self.words.host + offset);
        // SAFETY: as in `word`.
        unsafe { AtomicU64::from_ptr(at) }.store(value, Ordering::Relaxed);
    }

    fn word(&self, index: usize) -> u64 {
        debug_assert!(index < WORDS);
        let at = std::ptr::with_exposed_provenance_mut::<u64>(self.words.host + 8 * index);
        // SAFETY: the driver's words are aligned, live until they are given back in `drop`, and there are at least `WORDS` of
        // them; whoever writes them meanwhile writes each whole.
        unsafe { AtomicU64::from_ptr(at) }.load(Ordering::Relaxed)
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        // Nobody is left to hear of a failure.
        let _ = self.driver.host_words_free(self.words);
    }
}
