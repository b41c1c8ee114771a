//! A kernel of a rank alone on its way to the device.

use super::check::below_2_31;
use crate::abi::{self, TwDescriptor, TwLocal, TwParams};
use crate::driver::Launch;
use crate::dtype::DType;
use crate::error::Result;
use crate::group::Rank;

/// An entry of `csrc/kernels/entries.h`, and how much a CTA of this launch needs.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub name: &'static str,
    pub shared: u32,
    /// CTAs an SM that it is compiled for.
    pub ctas_per_sm: u32,
}

/// Enqueues a kernel that deals `items` out to CTAs; nothing where there are none.
pub(super) fn enqueue(rank: &Rank, entry: Entry, dtype: DType, items: usize, local: TwLocal) -> Result<()> {
    let items = below_2_31("blocks of work", items)?;
    if items == 0 {
        return Ok(());
    }
    let params = TwParams {
        desc: TwDescriptor {
            dtype: dtype.code(),
            ..TwDescriptor::default()
        },
        local,
        ..TwParams::default()
    };
    let launch = Launch {
        // Twice as many CTAs as SMs, of kernels that are compiled for two an SM.
        grid: items.min((rank.facts().local_ctas() * entry.ctas_per_sm / 2).max(1)),
        threads: abi::TW_LOCAL_THREADS,
        shared: entry.shared,
        cluster: 1,
    };
    rank.in_order(|_| rank.driver().launch(entry.name, launch, &params, rank.stream()))
}

/// How `for_each_octet` (`csrc/kernels/local/walk.h`) walks: threads that share a row, and CTAs' worth of work.
pub(super) fn walk(rows: usize, cols: usize) -> (u32, usize) {
    let threads = cols
        .div_ceil(8)
        .next_power_of_two()
        .clamp(1, abi::TW_LOCAL_THREADS as usize);
    let rows_at_once = abi::TW_LOCAL_THREADS as usize / threads;
    (
        threads as u32,
        rows.div_ceil(rows_at_once).saturating_mul(cols.div_ceil(8 * threads)),
    )
}

/// CTAs' worth of rows, one or a warp each (`csrc/kernels/local/row_team.h`).
pub(super) fn rows(rows: usize, cols: usize) -> usize {
    const SPAN: usize = 256;
    if cols <= SPAN {
        rows.div_ceil(abi::TW_LOCAL_THREADS as usize / 32)
    } else {
        rows
    }
}
