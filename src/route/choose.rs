//! Which path an operation takes at a given M. Equal on every rank: it depends on nothing else than what they share.

use super::{Exchange, Path, Route, Want};
use crate::driver::Kind;
use crate::error::{Error, Result};
use crate::op::OpSpec;
use crate::op::config::{Config, Facts};
use crate::op::heuristics::{self, Setting};

/// The kernels of the path that is asked for, or chosen.
pub(crate) fn choose(facts: &Facts, spec: &OpSpec, m: u64) -> Result<Config> {
    match spec.route {
        Want::Auto if !spec.op.has_gemm() => facts.unfused(spec, m, true),
        // Until links are measured, fused is the choice wherever the heap holds a round of it. Of two errors the fused
        // path's is the one to report: it needs the smaller heap.
        Want::Auto => facts.fused(spec, m).or_else(|error| match error {
            Error::BadArgument { .. } => Err(error),
            error => facts.unfused(spec, m, true).map_err(|_| error),
        }),
        Want::Exactly(Path::Fused) => facts.fused(spec, m),
        Want::Exactly(Path::Unfused) => facts.unfused(spec, m, true),
        Want::Exactly(Path::Decline) => Ok(Config {
            path: Path::Decline,
            gemm: None,
            main: None,
            one_shot: false,
            exchange: Exchange::Push,
            grid_limit: 0,
            reducers: 0,
            clusters: (1, 1),
            splits: 1,
        }),
        Want::Exactly(path) => {
            let reason = "this version has no NCCL path: ask for auto, fused or unfused".to_string();
            Err(Error::RouteUnavailable { path, reason })
        }
    }
}

/// The route as a person reads it.
pub(crate) fn explain(config: &Config, spec: &OpSpec, m: u64, setting: &Setting, machine: Kind) -> Route {
    let links = match machine {
        Kind::Sim => "peer-to-peer over the simulated links",
        Kind::Cuda => "peer-to-peer over the GPUs' links",
    };
    let reason = match (spec.route, config.path) {
        (Want::Exactly(_), Path::Decline) => "asked for: the caller takes its own path".to_string(),
        (Want::Exactly(_), _) => "asked for".to_string(),
        (Want::Auto, _) if setting.world == 1 => "one rank: nothing travels".to_string(),
        (Want::Auto, Path::Fused) => format!("{links}; no measurement of this machine yet"),
        (Want::Auto, _) if spec.op.has_gemm() => format!("{links}; the heap holds no round of the fused kernel"),
        (Want::Auto, _) => format!("{links}; a collective alone"),
    };
    let mainloop = heuristics::explain(spec, m, setting).filter(|_| config.main.is_some());
    let exchange = match config.exchange {
        Exchange::Push => None,
        Exchange::Pull => Some("partials and results are pulled".to_string()),
        Exchange::InSwitch => Some("the switch adds, and sends to all".to_string()),
    };
    let reducers = (config.reducers > 0).then(|| format!("{} CTAs only reduce", config.reducers));
    let reason = [reason].into_iter().chain(exchange).chain(mainloop).chain(reducers);
    let reason = reason.collect::<Vec<_>>().join("; ");
    let gather_first = spec.op == crate::op::Op::AllGatherGemm;
    let (first, second) = if gather_first {
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
    use crate::dtype::DType;
    use crate::op::Op;
    use crate::op::config::tests::facts;

    fn spec(op: Op, route: Want) -> OpSpec {
        OpSpec::new(op, 256, if op.has_gemm() { 64 } else { 0 }, 4096, DType::F16).route(route)
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
    fn the_reason_is_the_reason() {
        let facts = facts(4, 1 << 26, 16);
        let route = |op, want, world| {
            let spec = spec(op, want);
            let setting = Setting {
                world,
                ..facts.setting()
            };
            explain(&choose(&facts, &spec, 300).unwrap(), &spec, 300, &setting, Kind::Sim).to_string()
        };
        assert_eq!(
            route(Op::GemmReduceScatter, Want::Auto, 4),
            "fused (gemm_rs_f16_64): peer-to-peer over the simulated links; no measurement of this machine yet"
        );
        assert_eq!(
            route(Op::AllGatherGemm, Want::Exactly(Path::Unfused), 4),
            "unfused (all_gather + gemm_f16_64): asked for"
        );
        assert_eq!(
            route(Op::GemmAllReduce, Want::Auto, 1),
            "fused (gemm_ar_f16_64): one rank: nothing travels"
        );
        assert_eq!(
            route(Op::AllReduce, Want::Auto, 4),
            "unfused (all_reduce): peer-to-peer over the simulated links; a collective alone"
        );
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
}
