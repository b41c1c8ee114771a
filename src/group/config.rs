//! How a group is made.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::nccl::NcclPolicy;
use crate::op::{OpSpec, heap_bytes};

/// When the links between a group's GPUs are tried before a route trusts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Probing {
    /// Never: the driver is believed.
    Never,
    /// Unless these GPUs were found in order before, with this driver and this version of the crate. A simulated node's
    /// word is taken.
    #[default]
    IfNeeded,
    /// For this group, whatever was found before.
    Always,
}

/// What a group's sums may depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Numerics {
    /// On the operands alone: equal bits on every rank, run, route and machine (`docs/numerics.md`).
    #[default]
    Exact,
    /// All-reduces may be added up in the switch, in an order of its own, where the machine can: equal on all ranks of
    /// a run, but not from run to run.
    InSwitch,
}

/// The sizes and bounds of a group; equal on all its ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupConfig {
    /// Bytes of each rank's symmetric heap, from which all operations of the group are served. Default: 64 MiB.
    pub heap_bytes: usize,
    /// The largest message, its rows padded to 64 values, that an all-reduce sends to every rank at once instead of
    /// reducing it where it is owned; where the crate chooses the route it may do so for less. Takes 4 * world times as
    /// much of the heap. Default: 128 KiB, up to which one-shots are predicted to be faster on 8 GPUs (on 4, up to 512).
    pub one_shot_bytes: usize,
    /// The most CTAs that one operation keeps resident on a rank; 0: all that fit. Groups that share devices need
    /// budgets that fit together. Default: 0.
    pub max_ctas: u32,
    /// Bound on every wait for another rank (simulated time on a simulated node of one process). Default: what the environment
    /// variable `TILEWEAVE_DEADLINE_MS` says, in milliseconds; else 120 s. Other ranks that have failed or ended are heard of
    /// long before.
    pub deadline: Duration,
    /// How long a rank that [joins](crate::Rank::join) waits until all have joined (wall time); may differ between ranks. Default:
    /// 120 s.
    pub joining: Duration,
    /// When links are tried. Default: if needed.
    pub probing: Probing,
    /// What sums may depend on. Default: on the operands alone.
    pub numerics: Numerics,
    /// What becomes of operations that NCCL is predicted to do clearly faster, or that the links do not allow. Default: the
    /// caller has NCCL, so they are declined. On the simulated node and where ranks share a GPU there is no NCCL, and
    /// they are served where they can be.
    pub nccl: NcclPolicy,
}

/// The bound on waits where nobody sets another one.
const LIBRARY_DEADLINE: Duration = Duration::from_secs(120);

/// The bound that the environment sets. What it cannot mean is an error of whoever makes a group.
fn default_deadline() -> Result<Duration> {
    const NAME: &str = "TILEWEAVE_DEADLINE_MS";
    let Some(value) = std::env::var_os(NAME) else {
        return Ok(LIBRARY_DEADLINE);
    };
    let text = value.to_string_lossy();
    let ms = text.trim().parse().ok().filter(|ms| *ms > 0);
    let ms = ms.ok_or_else(|| Error::bad_argument(NAME, &*text, "a number of milliseconds, at least 1"))?;
    Ok(Duration::from_millis(ms))
}

impl Default for GroupConfig {
    fn default() -> Self {
        GroupConfig {
            heap_bytes: 64 << 20,
            one_shot_bytes: 128 << 10,
            max_ctas: 0,
            deadline: default_deadline().unwrap_or(LIBRARY_DEADLINE),
            joining: Duration::from_secs(120),
            probing: Probing::default(),
            numerics: Numerics::default(),
            nccl: NcclPolicy::default(),
        }
    }
}

impl GroupConfig {
    /// With a heap of this many bytes a rank.
    pub fn heap_bytes(self, heap_bytes: usize) -> Self {
        GroupConfig { heap_bytes, ..self }
    }

    /// With one-shot messages up to this many bytes.
    pub fn one_shot_bytes(self, one_shot_bytes: usize) -> Self {
        GroupConfig { one_shot_bytes, ..self }
    }

    /// With at most this many CTAs an operation.
    pub fn max_ctas(self, max_ctas: u32) -> Self {
        GroupConfig { max_ctas, ..self }
    }

    /// With this much time for all ranks to join.
    pub fn joining(self, joining: Duration) -> Self {
        GroupConfig { joining, ..self }
    }

    /// With links tried then.
    pub fn probing(self, probing: Probing) -> Self {
        GroupConfig { probing, ..self }
    }

    /// With sums that may depend on that.
    pub fn numerics(self, numerics: Numerics) -> Self {
        GroupConfig { numerics, ..self }
    }

    /// With this made of NCCL.
    pub fn nccl(self, nccl: NcclPolicy) -> Self {
        GroupConfig { nccl, ..self }
    }

    /// With this bound on waits.
    pub fn deadline(self, deadline: Duration) -> Self {
        GroupConfig { deadline, ..self }
    }

    /// The smallest heap, in bytes a rank, in which each of `specs` runs in one round at every M up to its `max_m`.
    /// Pure: no machine is asked, so that it can be told before a KV cache takes the rest. With a smaller heap
    /// operations take several rounds, as long as the smallest one fits. An all-reduce on a rank that keeps fewer CTAs
    /// resident than there are ranks may take several rounds all the same.
    ///
    /// It holds for the default `one_shot_bytes`; see [`GroupConfig::sized_for`].
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a world outside 1..=16, or a spec that no plan can be made for.
    pub fn heap_bytes_for(specs: &[OpSpec], world: usize) -> Result<usize> {
        heap_bytes(specs, world, GroupConfig::default().one_shot_bytes)
    }

    /// With the heap that [`GroupConfig::heap_bytes_for`] tells, for this configuration's `one_shot_bytes`.
    ///
    /// # Errors
    /// As [`GroupConfig::heap_bytes_for`].
    pub fn sized_for(self, specs: &[OpSpec], world: usize) -> Result<Self> {
        let heap_bytes = heap_bytes(specs, world, self.one_shot_bytes)?;
        Ok(self.heap_bytes(heap_bytes))
    }

    pub(crate) fn check(&self) -> Result<()> {
        default_deadline()?;
        if self.deadline.is_zero() {
            return Err(Error::bad_argument("deadline", "0 s", "a bound longer than that"));
        }
        Ok(())
    }

    /// The deadline in nanoseconds; beyond 2^63 it is as good as none.
    pub(crate) fn deadline_ns(&self) -> u64 {
        u64::try_from(self.deadline.as_nanos()).unwrap_or(u64::MAX).min(1 << 63)
    }
}
