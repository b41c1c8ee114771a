//! stmatrix: four 8x8 matrices of 16-bit values, from a warp's registers to rows of shared memory. It runs when the 32
//! lanes have come. Row j of matrix i lies in one register of four lanes; it counts as written by lane 8 i + j, which
//! gave the address, so that this lane's own fences and arrivals cover it: the lanes have met here.

use super::cta::Cta;
use super::machine::Machine;
use super::report::Trouble;
use super::shadow::{self, ALL_BYTES, GRANULE};

/// What the lanes brought: a row's address and a register of each matrix.
pub(super) type Rows = [(u32, [u32; 4]); 32];

impl Machine {
    /// Stores the rows of a warp whose lanes are all here.
    ///
    /// # Safety
    /// No fiber of the warp runs but the caller's, and no reference to one is live.
    pub unsafe fn store_matrices(cta: &mut Cta, warp: usize) -> Result<(), Trouble> {
        let rows: Rows = cta.warps[warp].rows;
        for (lane, (addr, _)) in rows.iter().enumerate() {
            let (matrix, row) = (lane / 8, lane % 8);
            let thread = (32 * warp + lane) as u32;
            // SAFETY: one fiber at a time, only read.
            let f = unsafe { cta.fiber(thread) };
            Machine::check_shared(cta, f, *addr, GRANULE as u32, true).map_err(|t| t.row_of(thread))?;
            let data: [u32; 4] = std::array::from_fn(|i| rows[4 * row + i].1[matrix]);
            let granule = *addr as usize / GRANULE as usize;
            cta.window.bytes[granule] = data.iter().rev().fold(0, |bytes, word| bytes << 32 | u128::from(*word));
            let old = cta.window.shadow[granule];
            cta.window.shadow[granule] = shadow::after_write(old, f.me.write_tag, ALL_BYTES);
        }
        Ok(())
    }
}
