//! What a pass sends, told before it runs.

use crate::op::{Op, Plan};

/// One operation of a pass, and the payload bytes that it sends from this rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sends {
    /// The operation.
    pub op: Op,
    /// Exactly what [`Rank::stats`](crate::Rank::stats) will count for it ([`Plan::bytes_sent`]); `None` where another library
    /// moves them, and beyond `max_m`.
    pub bytes: Option<u64>,
}

impl Sends {
    pub(super) fn of(plan: &Plan, m: usize) -> Sends {
        Sends {
            op: plan.spec().op,
            bytes: plan.bytes_sent(m),
        }
    }

    /// The bytes of all of them; `None` where those of one are not known.
    pub fn total(sends: &[Sends]) -> Option<u64> {
        sends.iter().map(|sends| sends.bytes).sum()
    }
}
