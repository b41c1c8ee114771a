//! Waiting for a stream with an end in sight: CUDA's own call has none.

use std::time::{Duration, Instant};

use cudarc::driver::sys;

use super::library::check;
use crate::error::Result;

/// The longest time between two looks.
const LONGEST_NAP: Duration = Duration::from_millis(1);

/// Whether all work in `stream`, whose context is current, is done within `patience`. Naps grow with the time waited, so that a
/// short wait ends soon and a long one costs nothing.
pub(super) fn until_idle(stream: sys::CUstream, patience: Duration) -> Result<bool> {
    let begin = Instant::now();
    loop {
        // SAFETY: the stream is alive: the caller's word.
        match unsafe { sys::cuStreamQuery(stream) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => {}
            code => return check("cuStreamQuery", code).map(|()| true),
        }
        let waited = begin.elapsed();
        if waited >= patience {
            return Ok(false);
        }
        std::thread::sleep((waited / 4).min(LONGEST_NAP).min(patience - waited));
    }
}
