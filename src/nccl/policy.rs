//! What a group makes of NCCL.

/// What becomes of an operation that NCCL is predicted to do clearly faster, or that the ranks' links do not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum NcclPolicy {
    /// It is declined, with the reason: the caller has NCCL, and takes its own path.
    #[default]
    Decline,
    /// It goes by NCCL: the group makes communicators of its own, and plans may take [`Path::Nccl`](crate::Path::Nccl).
    /// Where there can be none the group is made all the same, and routes tell why.
    Own,
    /// It is served by the crate's own kernels, where they can, however fast NCCL were: nobody stands in.
    Never,
}
