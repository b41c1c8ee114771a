//! What a case takes: the same launches on both machines, between events.
//!
//! A GPU's figures are medians of samples taken in turns. On a described machine's clock one launch tells all: a second
//! would take as long.

use tileweave::route::Machine;
use tileweave::route::model::Work;
use tileweave::timeline::{Recorder, Timeline};
use tileweave::{Exchange, Numerics, Op, OpSpec, Operands, Path, Plan, Rank, Result, Want, chunk};

use super::cases::{Gemm, Message};
use super::subject::{Subject, work};
use crate::bench::clock::{self, Contest, Effort};
use crate::bench::contests::{Contender, Overlapped, Tuning};
use crate::bench::operands::{DTYPE, Pool, Rotating};
use crate::bench::overlap::{self, Overlap};
use crate::bench::statistics::median;

/// Of a GPU: samples of each figure, and sets of operands, far beyond the L2 together.
const EFFORT: Effort = Effort {
    samples: 21,
    launches: 1,
    sets: 2,
    fills: 1,
};
/// Of a message, which may be short: launches of a sample, and fills to hide that many launches behind.
const IN_A_ROW: Effort = Effort {
    launches: 10,
    fills: 8,
    ..EFFORT
};
/// `unfused - gemm` below this part of the GEMM is within what the order of a GEMM's waves alone changes.
const LEAST_COMMUNICATION: f64 = 0.01;
/// No variant of the GEMM + all-reduce beside the one that the crate chooses.
const AS_CHOSEN: Tuning = Tuning {
    mainloop: None,
    blocks: None,
    reducers: Some(0),
};

/// Milliseconds of an operation with a GEMM.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GemmTimes {
    pub gemm: f64,
    pub unfused: f64,
    /// The GEMM and NCCL's collective.
    pub nccl: Option<f64>,
    pub fused: f64,
    pub auto_route: Path,
    /// Percent; `None` where `unfused - gemm` cannot be told from nothing.
    pub overlap: Option<f64>,
}

impl GemmTimes {
    /// What the crate's own choice takes. Where it declines, the caller runs GEMM and NCCL.
    pub fn auto(&self) -> Option<f64> {
        match self.auto_route {
            Path::Fused => Some(self.fused),
            Path::Unfused => Some(self.unfused),
            _ => self.nccl,
        }
    }

    pub fn speedup(&self) -> f64 {
        self.unfused / self.fused
    }
}

/// Microseconds of a collective alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MessageTimes {
    /// Our kernels, by the better of one-shot and two-shot.
    pub p2p: f64,
    pub nccl: Option<f64>,
    /// Our kernels, the switch adding.
    pub multicast: Option<f64>,
}

/// Samples of each contender in milliseconds.
fn samples(subject: &Subject, ranks: &[Rank], contest: &mut dyn Contest, effort: Effort) -> Result<Vec<Vec<f64>>> {
    let samples = match subject {
        Subject::Cuda { .. } => clock::measure(ranks, contest, effort)?,
        Subject::Described { .. } => {
            let once = clock::once(ranks, contest, effort.launches)?;
            once.map(|times| times.into_iter().map(|ms| vec![ms]).collect())
        }
    };
    samples.ok_or_else(|| tileweave::Error::Unavailable {
        what: "a clock".into(),
        reason: "this machine's events tell no times".into(),
    })
}

pub fn gemm(subject: &Subject, case: &Gemm) -> Result<GemmTimes> {
    let whole = case.whole();
    let specs: Vec<OpSpec> = (0..case.ranks)
        .flat_map(|rank| Overlapped::specs(&whole, rank, AS_CHOSEN))
        .collect();
    let ranks = subject.group(&specs, case.ranks, Numerics::Exact)?;
    let pool = subject.pool();
    let mut contest = Overlapped::new(&ranks, &whole, AS_CHOSEN, EFFORT.sets, pool.as_ref(), false)?;
    let samples = samples(subject, &ranks, &mut contest, EFFORT)?;
    let of = |who: Contender| {
        let place = contest.field.iter().position(|other| *other == who);
        place
            .and_then(|place| samples.get(place))
            .map_or(&[][..], Vec::as_slice)
    };
    let [fused, gemm, unfused] = [Contender::Fused, Contender::Gemm, Contender::Unfused].map(of);
    let [fused_ms, gemm_ms, unfused_ms] = [fused, gemm, unfused].map(median);
    let work = work(case.op, case.m, case.n, case.k);
    let (nccl, auto_route) = match subject.machine(case.ranks) {
        Some(machine) => {
            let nccl = Modelled::new(&ranks, Some(&mut contest), &machine, &work);
            let ms = nccl.map(|nccl| nccl.ms(subject, EFFORT)).transpose()?;
            (ms, Subject::route(&machine, work))
        }
        None => (
            super::nccl::gemm_ms(&ranks, &whole, &mut contest, EFFORT)?,
            planned(&ranks[0], case, &work)?,
        ),
    };
    let overlap = match subject {
        _ if case.ranks < 2 => None,
        Subject::Cuda { .. } => match overlap::overlap(fused, gemm, unfused) {
            Overlap::Resolved(estimate) => Some(estimate.value),
            Overlap::NotResolvable { .. } => None,
        },
        Subject::Described { .. } => (unfused_ms - gemm_ms > LEAST_COMMUNICATION * gemm_ms)
            .then(|| overlap::percent(fused_ms, gemm_ms, unfused_ms)),
    };
    Ok(GemmTimes {
        gemm: gemm_ms,
        unfused: unfused_ms,
        nccl,
        fused: fused_ms,
        auto_route,
        overlap,
    })
}

/// Stamps of a role: enough for a thousand blocks.
const STAMPS: usize = 4096;

/// What every role of the fused kernel does, and when.
pub fn timeline(subject: &Subject, case: &Gemm) -> Result<Timeline> {
    let whole = case.whole();
    let specs: Vec<OpSpec> = (0..case.ranks)
        .flat_map(|rank| Overlapped::specs(&whole, rank, AS_CHOSEN))
        .collect();
    let ranks = subject.group(&specs, case.ranks, Numerics::Exact)?;
    let pool = subject.pool();
    let mut contest = Overlapped::new(&ranks, &whole, AS_CHOSEN, 1, pool.as_ref(), false)?;
    let recorders = ranks
        .iter()
        .map(|rank| Recorder::new(rank, STAMPS))
        .collect::<Result<Vec<_>>>()?;
    ranks.iter().try_for_each(Rank::synchronize)?;
    contest.record(&recorders)?;
    ranks.iter().try_for_each(Rank::synchronize)?;
    Timeline::read(&recorders)
}

/// The path that a plan of this group takes.
fn planned(rank: &Rank, case: &Gemm, work: &Work) -> Result<Path> {
    let side = if case.op == Op::AllGatherGemm { case.n } else { case.k };
    let spec = OpSpec::new(case.op, case.n, case.k, case.m, work.dtype).whole(side * case.ranks);
    Ok(rank.plan(&spec)?.route(case.m).path)
}

/// NCCL's collective on a described machine, by the model of it on the node's clock: behind our GEMM, or alone.
struct Modelled<'a> {
    ranks: &'a [Rank],
    gemm: Option<(&'a mut Overlapped, usize)>,
    us: f64,
    bytes: u64,
}

impl<'a> Modelled<'a> {
    /// `None`: no NCCL between these ranks.
    fn new(
        ranks: &'a [Rank],
        ours: Option<&'a mut Overlapped>,
        machine: &Machine,
        work: &Work,
    ) -> Option<Modelled<'a>> {
        let us = work.nccl_collective_us(machine)?;
        let gemm = match ours {
            Some(ours) => {
                let place = ours.field.iter().position(|who| *who == Contender::Gemm)?;
                Some((ours, place))
            }
            None => None,
        };
        Some(Modelled {
            ranks,
            gemm,
            us,
            bytes: work.ring_bytes(ranks.len()),
        })
    }

    fn ms(mut self, subject: &Subject, effort: Effort) -> Result<f64> {
        let all = samples(subject, self.ranks, &mut self, effort)?;
        Ok(median(all.first().map_or(&[], Vec::as_slice)))
    }
}

impl Contest for Modelled<'_> {
    fn contenders(&self) -> usize {
        1
    }

    fn launch(&mut self, _contender: usize, set: usize) -> Result<()> {
        if let Some((ours, place)) = &mut self.gemm {
            ours.launch(*place, set)?;
        }
        let streams: Vec<_> = self.ranks.iter().map(Rank::stream).collect();
        let node = self.ranks[0].node();
        node.driver().model_collective(&streams, self.us, self.bytes)
    }
}

/// A collective alone on every rank.
struct Plain {
    lanes: Vec<Lane>,
    m: usize,
}

struct Lane {
    plan: Plan,
    x: Rotating,
    out: Rotating,
}

impl Plain {
    fn new(ranks: &[Rank], message: &Message, spec: &OpSpec, pool: Option<&Pool>) -> Result<Plain> {
        let (m, n) = message.matrix();
        let lane = |rank: &Rank| {
            let own = chunk(m, message.ranks, rank.rank()).len();
            let (rows, results) = match message.op {
                Op::AllGather => (own, m),
                Op::ReduceScatter => (m, own),
                _ => (m, m),
            };
            let lane = Lane {
                plan: rank.plan(spec)?,
                x: Rotating::new(rank, rows, n, EFFORT.sets, pool)?,
                out: Rotating::new(rank, results, n, EFFORT.sets, None)?,
            };
            rank.synchronize()?;
            Ok(lane)
        };
        Ok(Plain {
            lanes: ranks.iter().map(lane).collect::<Result<_>>()?,
            m,
        })
    }
}

impl Contest for Plain {
    fn contenders(&self) -> usize {
        1
    }

    fn launch(&mut self, _contender: usize, set: usize) -> Result<()> {
        let m = self.m;
        let launch = |lane: &mut Lane| {
            lane.plan
                .launch(&Operands::plain(m, lane.x.mat(set)?, lane.out.mat_mut(set)?))
        };
        self.lanes.iter_mut().try_for_each(launch)
    }
}

impl Message {
    /// Its matrix: a row for each rank, or for an all-reduce one.
    fn matrix(&self) -> (usize, usize) {
        let rows = if self.op == Op::AllReduce { 1 } else { self.ranks };
        (rows, (self.bytes / DTYPE.size()).div_ceil(rows).max(1))
    }
}

pub fn message(subject: &Subject, case: &Message) -> Result<MessageTimes> {
    let (m, n) = case.matrix();
    let spec = OpSpec::new(case.op, n, 0, m, DTYPE).route(Want::Exactly(Path::Unfused));
    let pool = subject.pool();
    let us = |numerics: Numerics, spec: OpSpec| {
        let ranks = subject.group(std::slice::from_ref(&spec), case.ranks, numerics)?;
        let mut plain = Plain::new(&ranks, case, &spec, pool.as_ref())?;
        let samples = samples(subject, &ranks, &mut plain, IN_A_ROW)?;
        Ok::<f64, tileweave::Error>(1e3 * median(samples.first().map_or(&[], Vec::as_slice)))
    };
    let p2p = us(Numerics::Exact, spec.clone())?;
    let machine = subject.machine(case.ranks);
    let offered = tileweave::route::exchanges(case.op).contains(&Exchange::InSwitch);
    let multicast = match &machine {
        _ if !offered || case.ranks < 2 => None,
        Some(machine) if !machine.multicast => None,
        Some(_) => Some(us(Numerics::InSwitch, spec.clone().exchange(Exchange::InSwitch))?),
        // What this machine's switch cannot do is no failure of the row.
        None => us(Numerics::InSwitch, spec.clone().exchange(Exchange::InSwitch)).ok(),
    };
    let work = work(case.op, m, n, 0);
    let nccl = match &machine {
        Some(machine) => {
            let ranks = subject.group(std::slice::from_ref(&spec), case.ranks, Numerics::Exact)?;
            let nccl = Modelled::new(&ranks, None, machine, &work);
            let ms = nccl.map(|nccl| nccl.ms(subject, IN_A_ROW)).transpose()?;
            ms.map(|ms| 1e3 * ms)
        }
        None => super::nccl::alone_us(subject, case, IN_A_ROW)?,
    };
    Ok(MessageTimes { p2p, nccl, multicast })
}
