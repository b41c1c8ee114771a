//! What is measured of NCCL: our GEMM and its collective in turn, and its collective alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tileweave::nccl::{Call, Collective, Communicators, Config, Library};
use tileweave::{DType, Error, Op, Operands, Plan, Rank, Result};

use crate::bench::clock::Contest;
use crate::bench::contests::Overlapped;
use crate::bench::latency;
use crate::bench::operands::{Pool, Rotating};
use crate::bench::shapes::Fused;

fn failed(reason: String) -> Error {
    let what = "NCCL".into();
    Error::Unavailable { what, reason }
}

/// Communicators of a group's ranks, driven by one thread.
pub(super) struct Clique {
    comms: Communicators,
    ranks: Vec<Rank>,
}

impl Clique {
    /// A rank's kernels get no more CTAs than the smallest has SMs: a CTA waits for its like on the other ranks, which must
    /// not be kept waiting for an SM.
    pub fn new(library: &Arc<Library>, ranks: &[Rank], deadline: Duration) -> Result<Clique> {
        let sms = |rank: &Rank| Ok(rank.node().driver().place_info(rank.place())?.sms);
        let sms = ranks.iter().map(sms).collect::<Result<Vec<u32>>>()?;
        let config = Config {
            deadline,
            most_ctas: sms.into_iter().min(),
        };
        let of: Vec<Rank> = ranks.to_vec();
        let context = move |rank: usize, body: &mut dyn FnMut() -> Result<()>| {
            of[rank].node().driver().in_context(of[rank].place(), body)
        };
        let (all, id): (Vec<usize>, _) = ((0..ranks.len()).collect(), library.unique_id()?);
        let comms = Communicators::new(library, &id, ranks.len(), &all, config, Box::new(context))?;
        let ranks = ranks.to_vec();
        Ok(Clique { comms, ranks })
    }

    /// One call for each rank, in rank order, in one group: each would wait for the others'.
    pub fn launch(&self, calls: impl Iterator<Item = Call>) -> Result<()> {
        let parts: Vec<_> = self
            .ranks
            .iter()
            .zip(calls)
            .map(|(rank, call)| (rank.rank(), call, rank.stream()))
            .collect();
        // SAFETY: the contests below name buffers of these ranks, which they keep, and count what these hold.
        unsafe { self.comms.enqueue(&parts) }
    }

    /// Until the ranks' streams are empty, within the communicators' deadline; then whether our kernels went well. A wait that runs
    /// out aborts.
    pub fn wait(&self) -> Result<()> {
        let until = Instant::now() + self.comms.deadline();
        for rank in &self.ranks {
            let left = until.saturating_duration_since(Instant::now());
            if !rank.node().driver().stream_wait(rank.stream(), left)? {
                self.comms.abort();
                let limit = self.comms.deadline().as_secs_f64();
                return Err(failed(format!("its kernels were not done after {limit} s")));
            }
            self.comms.health(rank.rank())?;
        }
        self.ranks.iter().try_for_each(Rank::synchronize)
    }
}

/// Our GEMM with NCCL's collective, the only contender.
pub struct WithNccl<'a> {
    clique: Clique,
    ours: &'a mut Overlapped,
    op: Op,
    collective: Collective,
    count: usize,
}

impl<'a> WithNccl<'a> {
    pub fn new(
        library: &Arc<Library>,
        ranks: &[Rank],
        fused: &Fused,
        ours: &'a mut Overlapped,
        deadline: Duration,
    ) -> Result<WithNccl<'a>> {
        if !fused.m.is_multiple_of(ranks.len()) {
            return Err(failed(format!(
                "its chunks are of equal size, and M = {} is no multiple of {} ranks",
                fused.m,
                ranks.len()
            )));
        }
        let rows = fused.m / ranks.len();
        let (collective, count) = match fused.op {
            Op::GemmReduceScatter => (Collective::ReduceScatter, rows * fused.n),
            Op::AllGatherGemm => (Collective::AllGather, rows * fused.k),
            _ => (Collective::AllReduce, fused.m * fused.n),
        };
        Ok(WithNccl {
            clique: Clique::new(library, ranks, deadline)?,
            ours,
            op: fused.op,
            collective,
            count,
        })
    }

    fn exchange(&mut self, set: usize) -> Result<()> {
        let ends = self.ours.exchanged(set);
        let (collective, count, dtype) = (self.collective, self.count, DType::Bf16);
        self.clique.launch(ends.into_iter().map(|(from, to)| Call {
            collective,
            from,
            to,
            count,
            dtype,
        }))
    }
}

impl Contest for WithNccl<'_> {
    fn contenders(&self) -> usize {
        1
    }

    fn launch(&mut self, _contender: usize, set: usize) -> Result<()> {
        if self.op == Op::AllGatherGemm {
            self.exchange(set)?;
            return self.ours.gemms(set);
        }
        self.ours.gemms(set)?;
        self.exchange(set)
    }

    fn wait(&mut self, _ranks: &[Rank]) -> Result<()> {
        self.clique.wait()
    }
}

/// An all-reduce of one row: ours, then NCCL's.
pub struct Repeated {
    clique: Clique,
    lanes: Vec<(Plan, Rotating, Rotating)>,
    elements: usize,
}

impl Repeated {
    pub fn new(
        library: &Arc<Library>,
        ranks: &[Rank],
        elements: usize,
        pool: &Pool,
        deadline: Duration,
    ) -> Result<Repeated> {
        let lanes = latency::lanes(ranks, elements, pool)?;
        Ok(Repeated {
            clique: Clique::new(library, ranks, deadline)?,
            lanes,
            elements,
        })
    }
}

impl Contest for Repeated {
    fn contenders(&self) -> usize {
        2
    }

    fn launch(&mut self, contender: usize, set: usize) -> Result<()> {
        if contender == 0 {
            let launch = |(plan, x, out): &mut (Plan, Rotating, Rotating)| {
                plan.launch(&Operands::plain(1, x.mat(set)?, out.mat_mut(set)?))
            };
            return self.lanes.iter_mut().try_for_each(launch);
        }
        let elements = self.elements;
        self.clique.launch(self.lanes.iter().map(|(_, x, out)| Call {
            collective: Collective::AllReduce,
            from: x.ptr(set),
            to: out.ptr(set),
            count: elements,
            dtype: DType::Bf16,
        }))
    }

    fn wait(&mut self, _ranks: &[Rank]) -> Result<()> {
        self.clique.wait()
    }
}
