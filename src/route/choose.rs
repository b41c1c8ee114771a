//! A plan's table: which kernels run at every M, by the decision of a route.
//!
//! Ranges of M are found by bisection, which counts on it that no part of an answer comes back once it has changed. A decision
//! by a model gives no such promise. So M is cut into buckets that end at powers of two, and a bucket has one
//! decision, made for its last M; or two, where messages are one-shot up to some M within it: one for the last M that is and one
//! for the last of all. Within a bucket the kernels of one decision change as M grows, and never back: the number of splits,
//! the one thing that falls, changes at 64 and 128, where buckets end. The buckets do not depend on the plan's `max_m`, nor
//! on anything else that ranks do not share.

use super::decide::{Allowed, Decision, decide};
use super::model::Work;
use super::{Exchange, Path, Route, Want};
use crate::error::{Error, Result};
use crate::op::config::{Config, Facts, kernel};
use crate::op::heuristics::{self, Setting};
use crate::op::{EXCHANGES, Op, OpSpec, last_of_each_from};

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

/// The work of `spec` at `m`, as every rank sees it.
fn work(facts: &Facts, spec: &OpSpec, m: u64) -> Work {
    let share = |own: usize| spec.whole.map_or(own, |whole| whole.div_ceil(facts.world)) as u64;
    let (n, k) = match spec.op {
        Op::AllGatherGemm => (share(spec.n), spec.k as u64),
        Op::GemmReduceScatter | Op::GemmAllReduce => (spec.n as u64, share(spec.k)),
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
            numerics: facts.numerics,
            alternative: facts.alternative,
            exchanges: EXCHANGES,
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
        let mut config = match (spec.route, decision.path) {
            (Want::Exactly(Path::Decline), _) => return Ok(declined()),
            (Want::Exactly(Path::Nccl), _) => {
                let reason = "this version has no NCCL path: ask for auto, fused or unfused".to_string();
                return Err(Error::RouteUnavailable {
                    path: Path::Nccl,
                    reason,
                });
            }
            (Want::Exactly(path), Path::Decline) if !facts.machine.obstacles.is_empty() => {
                let reason = decision.reason.clone();
                return Err(Error::RouteUnavailable { path, reason });
            }
            (Want::Exactly(Path::Fused), _) => facts.fused(spec, m)?,
            (Want::Exactly(_), _) => facts.unfused(spec, m, true)?,
            (Want::Auto, Path::Fused | Path::Unfused) => self.auto(m, decision)?,
            (Want::Auto, _) => return Ok(declined()),
        };
        config.exchange = if matches!(spec.route, Want::Auto) {
            decision.exchange
        } else {
            config.exchange
        };
        if spec.op == Op::AllGatherGemm && config.path == Path::Fused {
            let part = f64::from(decision.comm_sms) / f64::from(facts.machine.sms);
            config.pushers = (f64::from(config.grid_limit) * part).ceil() as u32;
        }
        Ok(config)
    }

    /// The path decided on, or where the heap does not hold it the other one. Of two errors the fused path's is the one to
    /// report: it needs the smaller heap.
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
    Config {
        path: Path::Decline,
        gemm: None,
        main: None,
        one_shot: false,
        exchange: Exchange::Push,
        grid_limit: 0,
        pushers: 0,
        reducers: 0,
        clusters: (1, 1),
        splits: 1,
    }
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

/// The kernels at every M up to `spec.max_m`: ranges by ascending M, neighbours different.
pub(crate) fn table(facts: &Facts, spec: &OpSpec) -> Result<Vec<Range>> {
    let max_m = spec.max_m as u64;
    let mut ranges: Vec<Range> = Vec::new();
    let mut first = 0;
    while first <= max_m {
        let bucket = Bucket::of(first);
        let decisions = Decisions::of(facts, spec, bucket);
        // An operation that fails at some M fails here, named; so errors end the search for ranges.
        for last in last_of_each_from(first, bucket.last.min(max_m), |m| decisions.config(m).ok()) {
            let config = decisions.config(last)?;
            match ranges.last_mut() {
                Some(before) if before.config == config => before.last = last,
                _ => ranges.push(Range { last, config }),
            }
        }
        first = bucket.last + 1;
    }
    Ok(ranges)
}

/// The route as a person reads it, of the range that ends at `m`.
pub(crate) fn explain(facts: &Facts, config: &Config, spec: &OpSpec, m: u64) -> Route {
    let decisions = Decisions::of(facts, spec, Bucket::of(m));
    let decision = decisions.decision(m);
    let reason = match (spec.route, config.path) {
        (Want::Exactly(_), Path::Decline) => "asked for: the caller takes its own path".to_string(),
        (Want::Exactly(_), _) => "asked for".to_string(),
        (Want::Auto, path) if path == decision.path || decision.path == Path::Decline => decision.reason.clone(),
        (Want::Auto, Path::Fused) => format!(
            "the heap holds no product between GEMM and collective; {}",
            decision.reason
        ),
        (Want::Auto, _) => format!("the heap holds no round of the fused kernel; {}", decision.reason),
    };
    let mainloop = heuristics::explain(spec, m, &decisions.setting).filter(|_| config.main.is_some());
    let reducers = (config.reducers > 0).then(|| format!("{} CTAs only reduce", config.reducers));
    let reason = [reason].into_iter().chain(mainloop).chain(reducers);
    let reason = reason.collect::<Vec<_>>().join("; ");
    let (first, second) = if spec.op == Op::AllGatherGemm {
        (config.main, config.gemm)
    } else {
        (config.gemm, config.main)
    };
    let names: Vec<&str> = first.into_iter().chain(second).map(|kernel| kernel.name()).collect();
    Route {
        path: config.path,
        reason,
        kernel: names.join(" + "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::{DType, Wire};
    use crate::op::config::tests::facts;
    use crate::route::constants::{CLASSES, Class};
    use crate::route::{Alternative, Machine};
    use proptest::prelude::*;

    fn spec(op: Op, route: Want) -> OpSpec {
        OpSpec::new(op, 256, if op.has_gemm() { 64 } else { 0 }, 4096, DType::F16).route(route)
    }

    fn route(facts: &Facts, spec: &OpSpec, m: u64) -> Route {
        explain(facts, &choose(facts, spec, m).unwrap(), spec, m)
    }

    #[test]
    fn an_explicit_route_fails_closed() {
        let facts = facts(4, 1 << 26, 16);
        let choose = |op, path| choose(&facts, &spec(op, Want::Exactly(path)), 300).map(|c| c.path);
        assert_eq!(choose(Op::GemmAllReduce, Path::Fused).unwrap(), Path::Fused);
        assert_eq!(choose(Op::GemmAllReduce, Path::Unfused).unwrap(), Path::Unfused);
        assert_eq!(choose(Op::AllGather, Path::Unfused).unwrap(), Path::Unfused);
        assert_eq!(choose(Op::AllGather, Path::Decline).unwrap(), Path::Decline);
        for (op, path) in [
            (Op::AllGather, Path::Fused),
            (Op::AllGather, Path::Nccl),
            (Op::GemmAllReduce, Path::Nccl),
        ] {
            let Err(Error::RouteUnavailable { path: named, .. }) = choose(op, path) else {
                panic!("{op} {path}")
            };
            assert_eq!(named, path);
        }
    }

    #[test]
    fn buckets_end_at_powers_of_two() {
        let of = |m| (Bucket::of(m).first, Bucket::of(m).last);
        assert_eq!([of(0), of(1), of(2), of(3)], [(0, 1), (0, 1), (2, 2), (3, 4)]);
        assert_eq!(
            [of(64), of(65), of(128), of(129)],
            [(33, 64), (65, 128), (65, 128), (129, 256)]
        );
        let mut next = 0;
        while next < 1 << 31 {
            let bucket = Bucket::of(next);
            assert_eq!((bucket.first, Bucket::of(bucket.last)), (next, bucket));
            next = bucket.last + 1;
        }
    }

    #[test]
    fn reasons_hold_the_figures_and_the_machine() {
        let mut facts = facts(4, 1 << 26, 16);
        assert_eq!(
            route(&facts, &spec(Op::GemmReduceScatter, Want::Auto), 300).to_string(),
            "fused (gemm_rs_f16_64): 13 us predicted at M = 512 against 15 unfused and 31 by NCCL; push; 4 x simulated GPU over \
             links of an unknown kind, push 50 GB/s by the data sheet, links not tried"
        );
        assert_eq!(
            route(&facts, &spec(Op::AllGatherGemm, Want::Exactly(Path::Unfused)), 300).to_string(),
            "unfused (all_gather + gemm_f16_64): asked for"
        );
        facts.machine = Machine::assumed(CLASSES[2], 1, false);
        facts.world = 1;
        assert_eq!(
            route(&facts, &spec(Op::GemmAllReduce, Want::Auto), 300).to_string(),
            "fused (gemm_ar_f16_64): one rank: nothing travels"
        );
    }

    #[test]
    fn nccl_takes_what_it_does_better_where_somebody_can_call_it() {
        let mut facts = facts(8, 1 << 26, 16);
        // PCIe of the fastest kind between GPUs without NVLink: NCCL's rings are slow there. An NVLink that only NCCL could use is not.
        facts.machine.nvlink_gb_per_s = Some(900.0);
        let large = OpSpec::new(Op::AllReduce, 8192, 0, 8192, DType::Bf16);
        let served = route(&facts, &large, 8192);
        assert_eq!(served.path, Path::Unfused);
        assert!(served.reason.ends_with("NCCL would be faster"), "{served}");
        facts.alternative = Alternative::Runtime;
        let declined = route(&facts, &large, 8192);
        assert_eq!((declined.path, declined.kernel.as_str()), (Path::Decline, ""));
        assert!(declined.reason.starts_with("NCCL is clearly faster: "), "{declined}");
        // An explicit route is not the crate's to decline.
        let asked = large.clone().route(Want::Exactly(Path::Unfused));
        assert_eq!(route(&facts, &asked, 8192).path, Path::Unfused);
        // Small messages are better off with one exchange.
        assert_eq!(route(&facts, &large, 1).path, Path::Unfused);
    }

    #[test]
    fn auto_falls_back_only_where_the_heap_is_small() {
        // One row of tiles of every owner is 8 * 256 tiles of 8 KiB: 16 MiB a half. The collective's is as wide but 16
        // rows high, of the same bytes; so neither fits, and the fused path's need is named.
        let facts = facts(8, 8 << 20, 16);
        let wide = OpSpec::new(Op::GemmReduceScatter, 64 * 256, 8, 4096, DType::F16);
        let Err(Error::HeapTooSmall { what, .. }) = choose(&facts, &wide, 64) else {
            panic!()
        };
        assert!(what.contains("gemm_rs_f16_64"), "{what}");
    }

    /// Where fusing loses but the heap has no room between GEMM and collective, it is fused all the same, and says so.
    #[test]
    fn do_not_fuse_where_the_heap_allows() {
        let mut facts = facts(2, 1 << 30, 132);
        let class = Class {
            fused_loss: 1.0,
            ..CLASSES[2]
        };
        facts.machine = Machine::assumed(class, 2, true);
        let deep = OpSpec::new(Op::GemmReduceScatter, 8192, 28672, 8192, DType::Bf16);
        let unfused = route(&facts, &deep, 8192);
        assert_eq!(unfused.path, Path::Unfused);
        assert!(unfused.reason.starts_with("do not fuse: "), "{unfused}");
        facts.layout = crate::memory::layout::Layout::new(64 << 20, 2, 65536).unwrap();
        let fused = route(&facts, &deep, 8192);
        assert_eq!(fused.path, Path::Fused);
        assert!(fused.reason.starts_with("the heap holds no product between"), "{fused}");
    }

    /// Ranks whose shares differ choose alike if they are told the whole.
    #[test]
    fn ragged_shares_choose_alike() {
        let mut facts = facts(3, 1 << 28, 132);
        facts.machine = Machine::assumed(CLASSES[2], 3, false);
        for m in [1, 100, 4096] {
            let of = |k: usize| {
                choose(
                    &facts,
                    &OpSpec::new(Op::GemmReduceScatter, 4096, k, 8192, DType::Bf16).whole(20000),
                    m,
                )
            };
            let (a, b) = (of(6667).unwrap(), of(0).unwrap());
            assert_eq!(
                (a.path, a.main, a.one_shot, a.grid_limit),
                (b.path, b.main, b.one_shot, b.grid_limit)
            );
        }
    }

    fn any_facts() -> impl Strategy<Value = Facts> {
        let machine = (
            0..CLASSES.len(),
            1usize..=16,
            any::<bool>(),
            1.0..1000.0f64,
            any::<bool>(),
        );
        (
            machine,
            20u32..28,
            prop::sample::select(vec![0u64, 4096, 65536, 1 << 20]),
            1u32..300,
        )
            .prop_filter_map(
                "a heap with room for a tile",
                |((class, world, shared, gb_per_s, runtime), heap, one_shot, ctas)| {
                    let mut facts = facts(world, 1 << 30, ctas);
                    facts.layout = crate::memory::layout::Layout::new(1 << heap, world, one_shot as usize).ok()?;
                    facts.hopper = ctas % 2 == 0;
                    facts.machine = Machine::assumed(CLASSES[class], world, shared);
                    facts.machine.push.gb_per_s = gb_per_s;
                    facts.machine.nvlink_gb_per_s = runtime.then_some(300.0);
                    facts.alternative = if runtime {
                        Alternative::Runtime
                    } else {
                        Alternative::Nobody
                    };
                    Some(facts)
                },
            )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        /// A plan's table says at every M what the function says.
        #[test]
        fn the_table_is_the_function(
            facts in any_facts(),
            op in prop::sample::select(Op::ALL.to_vec()),
            n in 0usize..9000,
            k in 0usize..9000,
            max_m in prop_oneof![0usize..400, 0usize..20000],
            wire in any::<bool>(),
            path in prop::sample::select(vec![Want::Auto, Want::Auto, Want::Exactly(Path::Fused), Want::Exactly(Path::Unfused)]),
        ) {
            let spec = OpSpec::new(op, n, if op.has_gemm() { k } else { 0 }, max_m, DType::Bf16)
                .wire(if wire { Wire::F32 } else { Wire::Output })
                .route(path);
            let every = |m: u64| choose(&facts, &spec, m);
            match table(&facts, &spec) {
                Ok(ranges) => {
                    let mut m = 0;
                    for Range { last, config } in ranges {
                        // Every M of small ranges, many of large ones.
                        let step = ((last + 1 - m) / 64).max(1);
                        for m in (m..=last).step_by(step as usize).chain([last]) {
                            prop_assert_eq!(every(m).unwrap(), config, "{} at {}", spec, m);
                        }
                        m = last + 1;
                    }
                    prop_assert_eq!(m, max_m as u64 + 1);
                }
                Err(_) => prop_assert!((0..=max_m as u64).any(|m| every(m).is_err())),
            }
        }
    }
}
