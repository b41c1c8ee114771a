//! How an operation's kernels get values from rank to rank: what they offer, and whether a group can have what is asked for.

use super::config::Facts;
use super::{Op, OpSpec};
use crate::abi;
use crate::error::{Error, Result};
use crate::route::{Exchange, Path};

/// What the two-shot kernels of an operation offer. One-shot ones send packets, whose data is its own flag: they push.
pub const fn offered(op: Op) -> &'static [Exchange] {
    match op {
        Op::GemmAllReduce | Op::AllReduce => &[Exchange::Push, Exchange::Pull, Exchange::InSwitch],
        Op::GemmReduceScatter | Op::ReduceScatter => &[Exchange::Push, Exchange::Pull],
        Op::AllGatherGemm | Op::AllGather => &[Exchange::Push],
    }
}

/// Whether a one-shot kernel is out of the question: another exchange than it has was asked for.
pub(crate) fn two_shot_only(spec: &OpSpec) -> bool {
    spec.exchange.is_some_and(|exchange| exchange != Exchange::Push)
}

/// What a hello says of it, beside one-shot or two-shot.
pub(crate) const fn code(exchange: Exchange) -> u32 {
    match exchange {
        Exchange::Push => 0,
        Exchange::Pull => abi::TW_PULL,
        Exchange::InSwitch => abi::TW_IN_SWITCH,
    }
}

impl Facts {
    /// That `exchange` can be had for `spec`'s kernel that does `op`; else why not.
    pub(crate) fn check_exchange(&self, op: Op, exchange: Exchange) -> Result<(), String> {
        if !offered(op).contains(&exchange) {
            return Err(match exchange {
                Exchange::InSwitch => format!("{op} has no sum that the switch could send to all"),
                _ => format!("{op} has no partials to be loaded: its rows are pushed"),
            });
        }
        match exchange {
            Exchange::InSwitch => self.multicast.clone(),
            _ => Ok(()),
        }
    }

    /// The exchange asked for, or pushing: a route may put another in its place.
    pub(crate) fn exchange(&self, spec: &OpSpec, op: Op, path: Path) -> Result<Exchange> {
        let exchange = spec.exchange.unwrap_or_default();
        match self.check_exchange(op, exchange) {
            Ok(()) => Ok(exchange),
            Err(reason) => Err(Error::RouteUnavailable {
                path,
                reason: format!("no {exchange} exchange, which was asked for: {reason}"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::facts;
    use super::*;
    use crate::dtype::DType;

    #[test]
    fn an_explicit_exchange_is_had_or_refused() {
        let mut facts = facts(4, 1 << 26, 16);
        let spec = |op: Op, exchange| {
            let k = if op.has_gemm() { 64 } else { 0 };
            OpSpec::new(op, 512, k, 4096, DType::Bf16).exchange(exchange)
        };
        let choose = |facts: &Facts, op, exchange, m| facts.unfused(&spec(op, exchange), m, true);
        for m in [1, 4096] {
            let config = choose(&facts, Op::GemmAllReduce, Exchange::Pull, m).unwrap();
            assert_eq!((config.exchange, config.one_shot), (Exchange::Pull, false));
            let config = choose(&facts, Op::AllReduce, Exchange::Push, m).unwrap();
            assert_eq!((config.exchange, config.one_shot), (Exchange::Push, m == 1));
        }
        let says = |facts: &Facts, op, exchange, part: &str| {
            let error = choose(facts, op, exchange, 300).unwrap_err().to_string();
            assert!(error.contains(part), "{part:?} in {error:?}");
        };
        says(&facts, Op::AllReduce, Exchange::InSwitch, "not asked of the group");
        says(&facts, Op::ReduceScatter, Exchange::InSwitch, "no sum that the switch");
        says(&facts, Op::AllGatherGemm, Exchange::Pull, "all-gather has no partials");
        facts.multicast = Ok(());
        let config = facts.fused(&spec(Op::GemmAllReduce, Exchange::InSwitch), 4096).unwrap();
        assert_eq!(config.exchange, Exchange::InSwitch);
    }
}
