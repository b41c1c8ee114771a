//! Which path an operation takes, and why: [`decide()`] is a pure function of a [`Machine`] and an operation.
//! `docs/routes.md`.

mod choose;
pub mod constants;
mod decide;
mod described;
mod machine;
pub mod model;
pub mod nccl;
mod obstacle;
mod pair;
mod slow;

pub use crate::op::offered as exchanges;
pub(crate) use choose::{Range, explain, table};
pub use decide::{Allowed, Decision, Predicted, decide};
pub use machine::{LinkKind, Machine, Way};
pub use obstacle::Obstacle;
pub use pair::{Tried, tried};

/// The path taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Path {
    /// One kernel: the collective runs inside the GEMM.
    Fused,
    /// The same GEMM, then our peer-to-peer collective; for a plain collective, the collective alone.
    Unfused,
    /// Our GEMM with NCCL's collective; of a plain collective, NCCL's alone.
    Nccl,
    /// Not served: the runtime takes its own path.
    Decline,
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Path::Fused => "fused",
            Path::Unfused => "unfused",
            Path::Nccl => "nccl",
            Path::Decline => "decline",
        })
    }
}

/// How partials and results get from one rank to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Exchange {
    /// The sender stores into the receiver's memory.
    #[default]
    Push,
    /// The receiver loads from the sender's memory.
    Pull,
    /// The switch adds, and multiplies what is sent (NVLS): opt-in, since the order of its sums is its own.
    InSwitch,
}

impl std::fmt::Display for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Exchange::Push => "push",
            Exchange::Pull => "pull",
            Exchange::InSwitch => "in-switch",
        })
    }
}

/// What the caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Want {
    /// The crate chooses and says why.
    #[default]
    Auto,
    /// This path or an error; never a fallback.
    Exactly(Path),
}

/// A path with its reason and the kernel that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The path.
    pub path: Path,
    /// Why, for a person.
    pub reason: String,
    /// The kernels launched, in order, joined by ` + `.
    pub kernel: String,
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.path, self.kernel, self.reason)
    }
}
