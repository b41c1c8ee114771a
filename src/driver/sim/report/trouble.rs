//! What went wrong, as a value that a fiber can leave behind.

use super::super::descriptor::Field;
use super::super::fiber::WarpOp;
use super::super::shadow;
use super::super::tensor_map::BadMap;

/// A violation. Values only: it is made on a fiber's stack.
#[derive(Debug, Clone, Copy)]
pub(in crate::driver::sim) enum Trouble {
    OutOfBounds {
        shared: bool,
        addr: u64,
        bytes: u64,
        write: bool,
    },
    Misaligned {
        shared: bool,
        addr: u64,
        bytes: u64,
    },
    NotMapped {
        addr: u64,
        owner: usize,
    },
    Uninitialised {
        shared: bool,
        addr: u64,
        bytes: u64,
    },
    Unordered {
        shared: bool,
        addr: u64,
        bytes: u64,
        tag: u64,
    },
    SourceChanged {
        addr: u64,
    },
    /// A store or discard of what its last reader may still need.
    Unconsumed {
        addr: u64,
        tag: u64,
    },
    /// A read of what a store on its way will overwrite.
    Overtaken {
        addr: u64,
        tag: u64,
    },
    BadCopySize {
        bytes: u32,
    },
    BarrierLeft {
        site: u32,
    },
    BarrierSites {
        first: u32,
        second: u32,
    },
    WarpLeft {
        op: WarpOp,
    },
    WarpOps {
        first: WarpOp,
        second: WarpOp,
    },
    WarpSplit {
        op: WarpOp,
        site: u32,
    },
    LanesDisagree {
        warp: u32,
        lane: u32,
    },
    RegisterGone,
    NoWarpgroup {
        threads: u32,
    },
    WarpgroupDisagrees {
        first: u32,
        thread: u32,
    },
    WgmmaUnfenced,
    WgmmaUnwaited,
    AccumulatorGone,
    Descriptor {
        operand: char,
        bits: u64,
        field: Field,
        value: u64,
    },
    /// An operand that is not written, or not ordered before the issue as `thread` knew it.
    WgmmaReads {
        operand: char,
        addr: u32,
        tag: u64,
        thread: u32,
    },
    /// An operand B of what TMA loaded from memory that nobody had written.
    UndefinedOperand {
        addr: u32,
    },
    /// A write to what a wgmma in flight reads.
    WgmmaOverwritten {
        addr: u32,
        bytes: u32,
    },
    BadRegisters {
        have: u32,
        count: u32,
        increase: bool,
    },
    /// Trouble with a row that `thread` gave to stmatrix.
    BadRow {
        thread: u32,
        addr: u64,
    },
    /// Barriers 1 to 15.
    BadBarrier {
        id: u32,
        threads: u32,
    },
    BarrierThreads {
        id: u32,
        first: u32,
        second: u32,
    },
    BarrierPartWarp {
        id: u32,
        site: u32,
        warp: u32,
    },
    ClusterLeft {
        site: u32,
    },
    ClusterSites {
        first: u32,
        second: u32,
    },
    /// Of the cluster.
    NoSuchCta {
        rank: u32,
        size: u32,
    },
    CtaGone {
        rank: u32,
    },
    BadMask {
        mask: u32,
        size: u32,
    },
    NoMbarrier {
        addr: u32,
    },
    MbarrierOverwritten {
        addr: u32,
        tag: u64,
    },
    MbarrierCount {
        addr: u32,
        count: u32,
    },
    MbarrierInUse {
        addr: u32,
        pending: u32,
        count: u32,
        tx: i64,
    },
    TooManyMbarriers {
        threads: u32,
        room: u32,
    },
    NoInitFence {
        addr: u32,
        tag: u64,
    },
    InitUnordered {
        addr: u32,
        tag: u64,
    },
    OverArrival {
        addr: u32,
        phase: u32,
        count: u32,
        tx: i64,
    },
    TxOverflow {
        addr: u32,
        tx: i64,
        phase: u32,
    },
    BadParity {
        addr: u32,
        parity: u32,
    },
    BadMap {
        at: u64,
        why: BadMap,
    },
    /// A read of what a TMA load writes, or wrote and nobody has waited for.
    NotLoaded {
        addr: u32,
        tag: u64,
    },
    StoredOver {
        addr: u32,
        tag: u64,
    },
    LoadedOver {
        addr: u32,
        tag: u64,
    },
    LoadOverMbarrier {
        addr: u32,
    },
    /// A write over the source of a bulk copy.
    StillRead {
        addr: u32,
        tag: u64,
    },
    NoSharedFence {
        addr: u32,
        tag: u64,
    },
    NoGlobalFence {
        addr: u64,
        tag: u64,
    },
    /// multimem where no multicast object is, or one that the device may not use.
    NotMulticast {
        addr: u64,
        mapped: bool,
        write: bool,
    },
    /// multimem where a device of the team has bound nothing.
    Unbound {
        addr: u64,
        owner: usize,
    },
    NoAliasFence {
        addr: u64,
        tag: u64,
    },
    UndefinedRead {
        addr: u32,
    },
    UndefinedSource {
        addr: u32,
    },
    LoadSourceChanged {
        addr: u64,
    },
    LoadUnfinished {
        addr: u32,
        bar: u32,
    },
    LoadUnwaited {
        addr: u32,
        phase: u32,
    },
    BadBulkSize {
        bytes: u32,
    },
    BulkUnread {
        addr: u32,
    },
    MixedGroups,
    StackOverflow,
    ClocksRanOut,
    /// Of a kernel that computes behind one on the clock: what each asked for, or that it had left.
    Strays {
        led: Option<u64>,
        asked: Option<u64>,
    },
    /// The same, found for another thread of the warp than the one that ran into it.
    By {
        thread: u32,
        addr: u64,
        tag: u64,
    },
    /// Of streams, not of a thread.
    HostRange {
        addr: u64,
        bytes: u64,
    },
    CopyUnordered {
        addr: u64,
        tag: u64,
    },
    BadFree {
        ptr: u64,
    },
}

impl Trouble {
    /// Trouble with a row that `thread` gave to ldmatrix.
    pub fn by(self, thread: u32) -> Trouble {
        match self {
            Trouble::Unordered { addr, tag, .. } => Trouble::By { thread, addr, tag },
            Trouble::Uninitialised { addr, .. } => Trouble::By {
                thread,
                addr,
                tag: shadow::UNWRITTEN,
            },
            other => other,
        }
    }

    /// Trouble with a row that `thread` gave to stmatrix.
    pub fn row_of(self, thread: u32) -> Trouble {
        match self {
            Trouble::OutOfBounds { addr, .. } | Trouble::Misaligned { addr, .. } => Trouble::BadRow { thread, addr },
            other => other,
        }
    }
}
