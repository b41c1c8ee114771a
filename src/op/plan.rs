//! A plan: everything about an operation that can be known before its data, kept by ranges of M.

use std::ops::Range;
use std::sync::Arc;

use super::budget::heap_bytes;
use super::check::{Launcher, check, check_gemm};
use super::config::Config;
use super::launch::{Maker, Step, Steps};
use super::nccl::{Part, Rows};
use super::operands::Operands;
use super::start::Starter;
use super::{Epilogue, Op, OpSpec};
use crate::error::{Error, Result};
use crate::group::Rank;
use crate::memory::{Mat, MatMut};
use crate::route::{self, Path, Route};
use crate::timeline::Recorder;
use crate::trace;

/// An operation planned on a rank, for every M up to the spec's `max_m`. Cheap to clone, may be shared by threads.
///
/// Plans are local: making one asks no peer and no device, and every rank that plans the same spec in a group gets the
/// same plan.
#[derive(Debug, Clone)]
pub struct Plan(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rank: Rank,
    spec: OpSpec,
    /// By ascending M.
    table: Vec<Entry>,
    heap_bytes: usize,
    starter: Starter,
}

#[derive(Debug)]
struct Entry {
    m: Range<usize>,
    config: Config,
    route: Route,
}

impl Plan {
    pub(crate) fn new(rank: &Rank, spec: &OpSpec) -> Result<Plan> {
        spec.check()?;
        let facts = rank.facts();
        let mut table = Vec::new();
        let mut begin = 0;
        for route::Range { last, config } in route::table(facts, spec)? {
            let end = last as usize + 1;
            table.push(Entry {
                m: begin..end,
                config,
                route: route::explain(facts, &config, spec, last),
            });
            begin = end;
        }
        let one_shot_bytes = facts.layout.one_shot_bytes as usize;
        let heap_bytes = heap_bytes(std::slice::from_ref(spec), facts.world, one_shot_bytes)?;
        let plan = Plan(Arc::new(Inner {
            rank: rank.clone(),
            spec: spec.clone(),
            table,
            heap_bytes,
            starter: Starter::default(),
        }));
        trace::plan_made(&plan);
        Ok(plan)
    }

    /// What was planned.
    pub fn spec(&self) -> &OpSpec {
        &self.0.spec
    }

    /// The rank that launches it.
    pub fn rank(&self) -> &Rank {
        &self.0.rank
    }

    /// The size of a heap in which every M of this plan runs in one round. In a smaller one it takes several.
    pub fn heap_bytes(&self) -> usize {
        self.0.heap_bytes
    }

    fn entry(&self, m: usize) -> &Entry {
        let table = &self.0.table;
        // The last range ends behind max_m; there is at least one, since M = 0 is in it.
        &table[table.partition_point(|entry| entry.m.end <= m).min(table.len() - 1)]
    }

    /// The path at this M, equal on every rank. Beyond `max_m`, where nothing is launched, that of `max_m`. Of an
    /// all-reduce whose operands have gaps between their rows, the kernel may be the other of its two.
    pub fn route(&self, m: usize) -> Route {
        self.entry(m).route.clone()
    }

    /// The ranges of M with one route each, together `0..max_m + 1`: neighbours that differ in the path, the kernels,
    /// or both. A reason holds the times of its range's largest M.
    pub fn routes(&self) -> Vec<(Range<usize>, Route)> {
        let mut routes: Vec<(Range<usize>, Route)> = Vec::new();
        for Entry { m, route, .. } in &self.0.table {
            match routes.last_mut() {
                Some((before, same)) if (same.path, &same.kernel) == (route.path, &route.kernel) => {
                    *before = before.start..m.end;
                    *same = route.clone();
                }
                _ => routes.push((m.clone(), route.clone())),
            }
        }
        routes
    }

    /// The ranges of M with one kernel configuration each; together `0..max_m + 1`.
    pub fn m_ranges(&self) -> Vec<Range<usize>> {
        self.0.table.iter().map(|entry| entry.m.clone()).collect()
    }

    /// The payload bytes that a launch at this M will send from this rank's memory over the links, exactly as
    /// [`Rank::stats`] will count them; of a plain all-reduce, if its operands have no gaps between rows. `None` where
    /// no kernel of this crate communicates, and beyond `max_m`.
    pub fn bytes_sent(&self, m: usize) -> Option<u64> {
        let Inner { rank, spec, .. } = &*self.0;
        let config = &self.entry(m).config;
        rank.facts()
            .bytes_sent(spec, config, m as u64, rank.rank())
            .filter(|_| m <= spec.max_m)
    }

    /// Enqueues the operation on the rank's stream: no allocation on the device, no synchronisation, no word to a peer
    /// from the host. Every rank of the group launches the same operations in the same order. While the stream captures,
    /// the operation is captured instead, and each launch of the graph is one on the same operands (`docs/graphs.md`).
    ///
    /// # Errors
    /// [`Error::BadArgument`] before anything is enqueued; [`Error::Poisoned`] after a failure in the group;
    /// [`Error::RouteUnavailable`] of a plan that declines; [`Error::Driver`] where NCCL fails, or its peers do not come
    /// within the deadline, which ends the group. Whether the operation went well tells
    /// [`Rank::synchronize`].
    pub fn launch(&self, operands: &Operands<'_>) -> Result<()> {
        self.launch_with(operands, None)
    }

    /// As [`Plan::launch`], and the kernels stamp into `recorder` what they do and when (`docs/timeline.md`). In front of them goes
    /// a fill of the recorder's memory or two; a graph that captures this records again at every replay. Whether other ranks
    /// record makes no difference.
    ///
    /// # Errors
    /// As [`Plan::launch`]; [`Error::BadArgument`] for a recorder of another rank.
    pub fn launch_recorded(&self, operands: &Operands<'_>, recorder: &Recorder) -> Result<()> {
        let (this, other) = (self.0.rank.identity(), recorder.rank().identity());
        if this != other {
            let value = format!("one of rank {} of group {}", other.1, other.0);
            let expected = format!("one of this plan's rank {} of group {}", this.1, this.0);
            return Err(Error::bad_argument("the recorder", value, expected));
        }
        self.launch_with(operands, Some(recorder))
    }

    fn launch_with(&self, operands: &Operands<'_>, recorder: Option<&Recorder>) -> Result<()> {
        let Inner { rank, spec, .. } = &*self.0;
        let facts = rank.facts();
        let by = Launcher {
            rank: rank.rank(),
            world: rank.world(),
            identity: rank.identity(),
        };
        check(spec, by, operands)?;
        let Entry { config, route, .. } = self.entry(operands.m);
        match config.path {
            Path::Decline => {
                return Err(Error::RouteUnavailable {
                    path: Path::Decline,
                    reason: route.reason.clone(),
                });
            }
            Path::Nccl => {
                let group = rank.abi_group();
                let parts = Maker { spec, facts, group }.by_nccl(config, operands)?;
                return self.enqueue_with_nccl(&parts, recorder);
            }
            Path::Fused | Path::Unfused => {}
        }
        // A residual that is added element by element is cut with the rest.
        let read = operands.residual.as_ref().filter(|_| !spec.tail.normalises());
        let flat = operands.x.raw.is_contiguous()
            && operands.out.raw().is_contiguous()
            && read.is_none_or(|residual| residual.raw().is_contiguous());
        let strided = (spec.op == Op::AllReduce && !flat).then(|| facts.unfused(spec, operands.m as u64, false));
        let config = strided.transpose()?.map_or(*config, |strided| Config {
            // Packets are pushed; all else travels as the route says.
            exchange: if strided.one_shot {
                strided.exchange
            } else {
                config.exchange
            },
            ..strided
        });
        let steps = Maker {
            spec,
            facts,
            group: rank.abi_group(),
        }
        .steps(&config, operands, flat)?;
        self.enqueue(&steps, recorder)
    }

    /// Enqueues the GEMM of an unfused plan alone, on this rank alone: `out = x weight^T` of x `[m, k]`, weight `[n,
    /// k]` and out `[m, n]`, with the kernel, tile, splits and CTAs that the plan's own GEMM has, without its epilogue. No word goes to a
    /// peer and no operation is counted. This is what fused kernels are measured against.
    ///
    /// # Errors
    /// As [`Plan::launch`]; [`Error::RouteUnavailable`] of a plan that has no GEMM of its own.
    #[doc(hidden)]
    pub fn launch_gemm(&self, m: usize, x: Mat<'_>, weight: Mat<'_>, out: &mut MatMut<'_>) -> Result<()> {
        let Inner { rank, spec, .. } = &*self.0;
        let by = Launcher {
            rank: rank.rank(),
            world: rank.world(),
            identity: rank.identity(),
        };
        let operands = [&x.raw, &weight.raw, &out.raw];
        check_gemm(spec, by, m, operands)?;
        let Entry { config, .. } = self.entry(m);
        let Some(gemm) = config.gemm else {
            return Err(Error::RouteUnavailable {
                path: config.path,
                reason: "it has no GEMM that runs alone: ask for unfused".to_string(),
            });
        };
        let spec = &spec.clone().epilogue(Epilogue::None);
        let maker = Maker {
            spec,
            facts: rank.facts(),
            group: rank.abi_group(),
        };
        let step = maker.gemm_alone(config, gemm, m as u64, operands)?;
        rank.in_order(|_| self.start(&step, None))
    }

    fn enqueue(&self, steps: &Steps, recorder: Option<&Recorder>) -> Result<()> {
        self.0.rank.in_order(|launching| {
            recorder.map_or(Ok(()), Recorder::begin)?;
            let alone = |step: &Option<Step>| step.as_ref().map_or(Ok(()), |step| self.start(step, recorder));
            alone(&steps.before)?;
            self.start(&steps.main, recorder)?;
            launching.count(&steps.main.params);
            alone(&steps.after)
        })
    }

    fn enqueue_with_nccl(&self, parts: &[Part], recorder: Option<&Recorder>) -> Result<()> {
        let rank = &self.0.rank;
        let copy = |rows: &Rows| {
            (0..rows.rows as u64).try_for_each(|row| {
                let (to, from) = (rows.to.0 + row * rows.to.1, rows.from.0 + row * rows.from.1);
                rank.driver().copy_device(to, from, rows.bytes, rank.stream())
            })
        };
        rank.in_order(|launching| {
            recorder.map_or(Ok(()), Recorder::begin)?;
            for part in parts {
                match part {
                    Part::Kernel(step) => self.start(step, recorder)?,
                    Part::Rows(rows) => copy(rows)?,
                    Part::Nccl(calls) => {
                        launching.count_foreign();
                        // SAFETY: the addresses are those of operands, which were checked and live as `Mat` and `MatMut` promise,
                        // and of this rank's own scratch, which lasts as long as the group and is used in the stream's order.
                        unsafe { rank.enqueue_nccl(calls) }?;
                    }
                }
            }
            Ok(())
        })
    }

    fn start(&self, step: &Step, recorder: Option<&Recorder>) -> Result<()> {
        self.0.starter.start(&self.0.rank, step, recorder)
    }
}
