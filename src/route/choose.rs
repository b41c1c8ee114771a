//! A plan's table: which kernels run at every M, by the decision of a route.
//!
//! Ranges of M are found by bisection, which counts on it that no part of an answer comes back once it has changed. A
//! decision by a model gives no such promise. So M is cut into buckets that end at powers of two, and a bucket has one
//! decision, made for its last M; or two, where messages are one-shot up to some M within it: one for the last M that
//! is and one for the last of all. Within a bucket the kernels of one decision change as M grows, and never back: the
//! number of splits, the one thing that falls, changes at 64 and 128, where buckets end. The buckets do not depend on
//! the plan's `max_m`, nor on anything else that ranks do not share.

use super::decide::{Allowed, Decision, decide};
use super::model::Work;
use super::{Exchange, Path, Route, Want};
use crate::error::{Error, Result};
use crate::group::Numerics;
use crate::nccl::NcclPolicy;
use crate::op::config::{Config, Facts, kernel};
use crate::op::heuristics::{self, Setting};
use crate::op::{Op, OpSpec, last_of_each_from, offered};

/// Some M with one configuration each.
#[derive(Debug)]
pub(crate) struct Range {
    pub last: u64,
    pub config: Config,
}

/// M from one to the other, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    first: u64,
    last: u64,
}

impl Bucket {
    /// The one that `m` is in: 0 and 1, 2, 3 to 4, 5 to 8 and so on.
    fn of(m: u64) -> Bucket {
        let last = m.max(1).next_power_of_two();
        let first = if last == 1 { 0 } else { last / 2 + 1 };
        Bucket { first, last }
    }
}

/// The work of `spec` at `m`, as every rank sees it: of what may differ between ranks the largest share of the whole. A
/// rank that is not told the whole cannot take its own share for everybody's, and takes the weight for square.
fn work(facts: &Facts, spec: &OpSpec, m: u64) -> Work {
    let share = |own: usize, side: usize| match facts.world {
        1 => own as u64,
        world => spec.whole.unwrap_or(side).div_ceil(world) as u64,
    };
    let (n, k) = match spec.op {
        Op::AllGatherGemm => (share(spec.n, spec.k), spec.k as u64),
        Op::GemmReduceScatter | Op::GemmAllReduce => (spec.n as u64, share(spec.k, spec.n)),
        _ => (spec.n as u64, 0),
    };
    Work {
        op: spec.op,
        m,
        n,
        k,
        dtype: spec.dtype,
        wire: spec.wire_dtype(facts.world),
    }
}

/// Decisions for one bucket.
struct Decisions<'a> {
    facts: &'a Facts,
    spec: &'a OpSpec,
    setting: Setting,
    /// Where messages are small enough for one exchange.
    small: Decision,
    /// Where they are not.
    large: Decision,
}

impl<'a> Decisions<'a> {
    fn of(facts: &'a Facts, spec: &'a OpSpec, bucket: Bucket) -> Decisions<'a> {
        let setting = facts.setting();
        let allowed = Allowed {
            one_shot_bytes: setting.one_shot_bytes,
            numerics: match facts.multicast {
                Ok(()) => Numerics::InSwitch,
                Err(_) => Numerics::Exact,
            },
            nccl: match facts.nccl {
                NcclPolicy::Own if facts.by_nccl(spec).is_err() => NcclPolicy::Never,
                policy => policy,
            },
            exchanges: match spec.exchange {
                None => offered(spec.op),
                Some(Exchange::Push) => &[Exchange::Push],
                Some(Exchange::Pull) => &[Exchange::Pull],
                Some(Exchange::InSwitch) => &[Exchange::InSwitch],
            },
        };
        let at = |m: u64| decide(&facts.machine, &work(facts, spec, m), &allowed);
        let fits = last_small(spec, bucket, &setting);
        let large = at(bucket.last);
        Decisions {
            facts,
            spec,
            setting,
            small: fits.filter(|m| *m < bucket.last).map_or_else(|| large.clone(), at),
            large,
        }
    }

    /// The one that goes for `m`.
    fn decision(&self, m: u64) -> &Decision {
        if one_shot(self.spec, m, &self.setting) {
            &self.small
        } else {
            &self.large
        }
    }

    /// The kernels at `m`.
    fn config(&self, m: u64) -> Result<Config> {
        let (facts, spec, decision) = (self.facts, self.spec, self.decision(m));
        if spec.route == Want::Auto && facts.machine.obstacles.is_empty() {
            // One that was asked for is had or refused, not declined.
            let path = if spec.op.has_gemm() { Path::Fused } else { Path::Unfused };
            facts.exchange(spec, spec.op, path)?;
        }
        let mut config = match (spec.route, decision.path) {
            (Want::Exactly(Path::Decline), _) => return Ok(declined()),
            (Want::Exactly(Path::Nccl), _) => return facts.nccl(spec, m),
            (Want::Exactly(path), Path::Decline | Path::Nccl) if !facts.machine.obstacles.is_empty() => {
                let reason = decision.reason.clone();
                return Err(Error::RouteUnavailable { path, reason });
            }
            (Want::Exactly(Path::Fused), _) => facts.fused(spec, m)?,
            (Want::Exactly(_), _) => facts.unfused(spec, m, true)?,
            (Want::Auto, Path::Fused | Path::Unfused) => self.auto(m, decision)?,
            (Want::Auto, Path::Nccl) => match facts.nccl(spec, m) {
                // The heap has no room for it.
                Err(_) if facts.machine.obstacles.is_empty() => self.auto(m, decision)?,
                // Nor may our kernels run.
                Err(Error::HeapTooSmall { .. }) => return Ok(declined()),
                by_nccl => return by_nccl,
            },
            (Want::Auto, _) => return Ok(declined()),
        };
        if spec.route == Want::Auto && spec.exchange.is_none() && !config.one_shot {
            config.exchange = decision.exchange;
        }
        if spec.op == Op::AllGatherGemm && config.path == Path::Fused {
            let part = f64::from(decision.comm_sms) / f64::from(facts.machine.sms);
            config.pushers = (f64::from(config.grid_limit) * part).ceil() as u32;
        }
        Ok(config)
    }

    /// The path decided on, or where the heap does not hold it the other one. Of two errors the fused path's is the one
    /// to report: it needs the smaller heap.
    fn auto(&self, m: u64, decision: &Decision) -> Result<Config> {
        let (facts, spec) = (self.facts, self.spec);
        let on = |setting: &Setting| {
            let fused = || facts.fused_in(spec, m, setting);
            let unfused = || facts.unfused_in(spec, m, true, setting);
            match decision.path {
                _ if !spec.op.has_gemm() => unfused(),
                Path::Fused => fused().or_else(|error| match error {
                    Error::BadArgument { .. } => Err(error),
                    error => unfused().map_err(|_| error),
                }),
                _ => unfused().or_else(|_| fused()),
            }
        };
        if decision.one_shot || !one_shot(spec, m, &self.setting) {
            return on(&self.setting);
        }
        // Two exchanges although one would do. A heap that was sized for one may have no room for them.
        let two_shot = Setting {
            one_shot_bytes: 0,
            ..self.setting
        };
        on(&two_shot).or_else(|_| on(&self.setting))
    }
}

fn declined() -> Config {
    Config::without_kernels(Path::Decline)
}

/// Whether the message of `spec` at `m` is small enough for one exchange.
fn one_shot(spec: &OpSpec, m: u64, setting: &Setting) -> bool {
    let op = spec.op.collective();
    // Of the GEMM's own matrix, or of the one row that a plain collective takes its operands as.
    op == Op::AllReduce && kernel(spec, op, m, !spec.op.has_gemm(), setting).2
}

/// The last M of the bucket at which it is.
fn last_small(spec: &OpSpec, bucket: Bucket, setting: &Setting) -> Option<u64> {
    let small = |m: &u64| one_shot(spec, *m, setting);
    small(&bucket.first).then(|| last_of_each_from(bucket.first, bucket.last, |m| small(&m))[0])
}

/// The kernels at `m`, by themselves.
#[cfg(test)]
pub(crate) fn choose(facts: &Facts, spec: &OpSpec, m: u64) -> Result<Config> {
    Decisions::of(facts, spec, Bucket::of(m)).config(m)
}

/// The kernels at every M up to `spec.max_m`: ranges by ascending M, neighbours different. Of several M that the heap is
/// too small for, the error tells the most that any needs, so that one larger heap mends it.
pub(crate) fn table(facts: &Facts, spec: &OpSpec) -> Result<Vec<Range>> {
    let max_m = spec.max_m as u64;
    let mut ranges: Vec<Range> = Vec::new();
    let mut too_small: Option<(usize, Error)> = None;
    let mut first = 0;
    while first <= max_m {
        let bucket = Bucket::of(first);
        let decisions = Decisions::of(facts, spec, bucket);
        // An operation that fails at some M fails here, named; so errors end the search for ranges.
        for last in last_of_each_from(first, bucket.last.min(max_m), |m| decisions.config(m).ok()) {
            match (decisions.config(last), ranges.last_mut()) {
                (Ok(config), Some(before)) if before.config == config => before.last = last,
                (Ok(config), _) => ranges.push(Range { last, config }),
                (Err(error), _) => match error {
                    Error::HeapTooSmall { need, .. } if too_small.as_ref().is_none_or(|(most, _)| need > *most) => {
                        too_small = Some((need, error));
                    }
                    Error::HeapTooSmall { .. } => {}
                    error => return Err(error),
                },
            }
        }
        first = bucket.last + 1;
    }
    too_small.map_or(Ok(ranges), |(_, error)| Err(error))
}

/// The route as a person reads it, of the range that ends at `m`.
pub(crate) fn explain(facts: &Facts, config: &Config, spec: &OpSpec, m: u64) -> Route {
    let decisions = Decisions::of(facts, spec, Bucket::of(m));
    let decision = decisions.decision(m);
    let reason = match (spec.route, config.path) {
        (Want::Exactly(_), Path::Decline) => "asked for: the caller takes its own path".to_string(),
        (Want::Exactly(_), _) => "asked for".to_string(),
        (Want::Auto, path) if path == decision.path || decision.path == Path::Decline => decision.reason.clone(),
        (Want::Auto, _) if decision.path == Path::Nccl => {
            format!("the heap has no room between the GEMM and NCCL; {}", decision.reason)
        }
        (Want::Auto, Path::Fused) => format!(
            "the heap holds no product between GEMM and collective; {}",
            decision.reason
        ),
        (Want::Auto, _) => format!("the heap holds no round of the fused kernel; {}", decision.reason),
    };
    let mainloop = heuristics::explain(spec, m, &decisions.setting).filter(|_| config.path != Path::Decline);
    let not_nccl = match (spec.route, facts.nccl, facts.by_nccl(spec)) {
        (Want::Auto, NcclPolicy::Own, Err(why)) if facts.world > 1 => Some(format!("NCCL was not considered: {why}")),
        _ => None,
    };
    let exchange = match config.exchange {
        Exchange::Push => None,
        Exchange::Pull if spec.op.collective() == Op::AllReduce => Some("partials and results are pulled".to_string()),
        Exchange::Pull => Some("partials are pulled".to_string()),
        Exchange::InSwitch => Some("the switch adds, and sends to all".to_string()),
    };
    let square = (spec.route == Want::Auto
        && spec.op.has_gemm()
        && facts.world > 1
        && spec.whole.is_none()
        && facts.machine.obstacles.is_empty())
    .then(|| "the whole weight is taken for square (OpSpec::whole)".to_string());
    let reducers = (config.reducers > 0).then(|| format!("{} CTAs only reduce", config.reducers));
    let reason = [reason]
        .into_iter()
        .chain(exchange)
        .chain(mainloop)
        .chain(square)
        .chain(reducers)
        .chain(not_nccl);
    let reason = reason.collect::<Vec<_>>().join("; ");
    let (first, second) = if spec.op == Op::AllGatherGemm {
        (config.main, config.gemm)
    } else {
        (config.gemm, config.main)
    };
    let mut names: Vec<&str> = first.into_iter().chain(second).map(|kernel| kernel.name()).collect();
    if config.path == Path::Nccl {
        let at = if spec.op == Op::AllGatherGemm { 0 } else { names.len() };
        names.insert(at, crate::op::nccl::name(spec.op));
    }
    Route {
        path: config.path,
        reason,
        kernel: names.join(" + "),
    }
}

#[cfg(test)]
mod tests;
