//! The second time through the cases: NCCL's figures, filled into the rows that are there.
//!
//! NCCL stands in the table for context. So it is asked when all other figures are had and written, and the first thing that
//! goes wrong ends it: our kernels never run beside ones that are stuck.

use std::sync::Arc;
use std::time::Instant;

use tileweave::nccl::Library;
use tileweave::{OpSpec, Rank};

use super::clock::{self, Contest, Effort};
use super::contests::Overlapped;
use super::nccl::{Repeated, WithNccl};
use super::report::Report;
use super::shapes::{self, Fused, Scale};
use super::statistics::{Estimate, median_estimate};
use super::{Bench, DEADLINE, latency};

/// All-reduces in a row, of a sample; and fills of 0.2 ms that the host enqueues them behind: at some 10 microseconds for each of
/// 8 ranks' launches.
const IN_A_ROW: usize = 10;
const FILLS: usize = 8;

impl Bench<'_> {
    /// NCCL's figures for the report's rows, until one fails or time is over: then why.
    pub fn beside_nccl(&self, library: &Arc<Library>, scale: Scale, report: &mut Report) -> Result<(), String> {
        let in_time = || match Instant::now() < self.until {
            true => Ok(()),
            false => Err("out of time (--budget)".to_string()),
        };
        let (ranks, elements) = shapes::latency(scale);
        for row in &mut report.latency {
            in_time()?;
            let figures = self
                .in_a_row(library, ranks, elements)
                .map_err(|error| error.to_string())?;
            [row.in_a_row_us, row.nccl_in_a_row_us] = figures;
        }
        for fused in shapes::fused(scale) {
            let of_case = |row: &&mut super::FusedRow| {
                (row.op, row.layer, row.ranks, row.m) == (fused.op.name(), fused.layer, fused.ranks, fused.m)
            };
            let Some(row) = report.fused.iter_mut().find(of_case) else {
                continue;
            };
            in_time()?;
            row.nccl_ms = self.gemm_and_nccl(library, &fused).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn gemm_and_nccl(&self, library: &Arc<Library>, fused: &Fused) -> tileweave::Result<Option<Estimate>> {
        let specs: Vec<OpSpec> = (0..fused.ranks)
            .flat_map(|rank| Overlapped::specs(fused, rank, self.tuning))
            .collect();
        let ranks = self.group(&specs, fused.ranks)?;
        let sets = 2;
        let mut ours = Overlapped::new(&ranks, fused, self.tuning, sets, Some(&self.pool), false)?;
        let mut contest = WithNccl::new(library, &ranks, fused, &mut ours, DEADLINE)?;
        let [ms] = medians(&ranks, &mut contest, self.effort(1, sets))?;
        Ok(ms)
    }

    /// Microseconds of one of many all-reduces: ours and NCCL's.
    fn in_a_row(
        &self,
        library: &Arc<Library>,
        ranks: usize,
        elements: usize,
    ) -> tileweave::Result<[Option<Estimate>; 2]> {
        let ranks = self.group(&[latency::spec(elements)], ranks)?;
        let mut contest = Repeated::new(library, &ranks, elements, &self.pool, DEADLINE)?;
        let effort = Effort {
            fills: FILLS,
            ..self.effort(IN_A_ROW, 1)
        };
        let us = |ms: Estimate| Estimate {
            value: 1e3 * ms.value,
            low: 1e3 * ms.low,
            high: 1e3 * ms.high,
        };
        Ok(medians(&ranks, &mut contest, effort)?.map(|ms| ms.map(us)))
    }
}

/// The contenders' medians in milliseconds.
fn medians<const N: usize>(
    ranks: &[Rank],
    contest: &mut dyn Contest,
    effort: Effort,
) -> tileweave::Result<[Option<Estimate>; N]> {
    let samples = clock::measure(ranks, contest, effort)?;
    Ok(std::array::from_fn(|contender| {
        Some(median_estimate(samples.as_ref()?.get(contender)?))
    }))
}
