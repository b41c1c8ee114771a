//! What a simulated node is, how its schedule is drawn, and which faults are planted in it.

use std::sync::Arc;
use std::time::Duration;

use crate::abi::TwParams;
use crate::driver::{Launch, Place};
use crate::machines::Description;

/// Declares [`Site`] in the order of `csrc/machine/site.h` (a test compares the two).
macro_rules! sites {
    ($($name:ident),* $(,)?) => {
        /// A place in the kernels where order is made: the twin of `mx::Site` in `csrc/machine/site.h`.
        #[allow(missing_docs)] // the header says what each one orders
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Site { $($name),* }

        impl Site {
            /// Every site, by number.
            pub const ALL: &'static [Site] = &[$(Site::$name),*];
        }
    };
}

sites!(
    None,
    HelloSend,
    HelloPoll,
    HelloAcquire,
    AgreeBarrier,
    TileBarrier,
    TileRelease,
    TilePoll,
    TileAcquire,
    TileAcquired,
    PacketPoll,
    CreditArrive,
    CreditRelease,
    CreditPoll,
    CreditAcquire,
    CreditBarrier,
    RetireBarrier,
    LastArrive,
    LastBarrier,
    EndBarrier,
    MeetBarrier,
    MeetArrive,
    MeetRelease,
    MeetPoll,
    MeetAcquire,
    MeetArrived,
    TailSums,
    SumFence,
    ResultFence,
    CopyWait,
    StageBarrier,
    MmaWait,
    SplitBarrier,
    SplitArrive,
    SplitArrived,
    SetupBarrier,
    ClusterStart,
    ClusterEnd,
    StageFull,
    StageEmpty,
    WgmmaWait,
    ChunkFence,
    ChunkFull,
    ChunkRead,
    ChunkEmpty,
    BulkWait,
    RowsFence,
    RoundRead,
    LocalSums,
    LocalChunk,
    LocalIds,
    LocalList,
);

/// How late a write to a peer becomes visible if no acquire asks for it. Signals always arrive in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lateness {
    /// Never, before an acquire covers it or its kernel ends.
    Never,
    /// Seldom.
    Rarely,
    /// Most of the time soon.
    Often,
}

/// When a cp.async, a TMA load or a bulk copy runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// Where it is issued.
    AtIssue,
    /// Some at issue, some later, some at the wait.
    Mixed,
    /// Not before the wait; a TMA load, which has none of its own, not before nothing else can run.
    AtWait,
}

/// Which ready thread of a CTA runs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// The one that has waited longest.
    Fifo,
    /// The one that became ready last.
    Lifo,
    /// Any.
    Random,
}

/// A fault of the machine. Kernels stay as they are: the machine does wrong what they ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Order made at this site is not made: a release or an acq_rel atomic is relaxed, an acquire joins nothing, a barrier
    /// or a wait does not wait, a poll says at once what it hoped for.
    Ignore(Site),
    /// A full bulk wait at this site waits only until the sources are read (`.read`).
    ReadForFull(Site),
    /// An mbarrier wait at this site waits for the other parity.
    WrongPhase(Site),
    /// An mbarrier at this site expects that many bytes more (or fewer) than it is told.
    TxCount {
        /// The place of the `mbar_arrive_expect_tx`.
        site: Site,
        /// Bytes too many; negative: too few.
        delta: i32,
    },
    /// A release at this site is raised before its data: it arrives at once and covers only what came before the last
    /// barrier but one of its CTA.
    EarlySignal(Site),
    /// No signal (relaxed or release word, packet) of device `from` reaches the memory of device `to`.
    DropSignals {
        /// The device that stores.
        from: usize,
        /// The device whose memory stays as it was.
        to: usize,
    },
    /// The threads of a device run that much rarer. Nothing becomes wrong.
    Slow {
        /// The device.
        device: usize,
        /// How much rarer; 1 is normal.
        factor: u32,
    },
}

/// How a link between two devices is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Not there, and the node says so.
    Absent,
    /// Claimed, but it cannot be used: mapping or touching the other's memory fails.
    ClaimedOnly,
    /// Some of the bytes that cross it arrive changed.
    Corrupting,
    /// It takes that many times as long.
    Slow(u32),
}

/// One direction between two devices: `from` moves, to or from the memory of `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimLink {
    /// The device whose SMs or copy engine move.
    pub from: usize,
    /// The device whose memory it is.
    pub to: usize,
    /// What is wrong with it.
    pub state: LinkState,
}

/// What a launch hook sees of a launch, beside its parameters.
#[derive(Debug, Clone, Copy)]
pub struct LaunchSeen<'a> {
    /// The kernel's name in `csrc/kernels/entries.h`.
    pub kernel: &'a str,
    /// The place of the stream.
    pub place: Place,
    /// Grid, threads, shared memory.
    pub launch: Launch,
}

/// Sees every launch and may edit its parameters: the faults that a host would make.
pub type LaunchHook = Arc<dyn Fn(LaunchSeen<'_>, &mut TwParams) + Send + Sync>;

/// A simulated node and its schedule. What is `None` is drawn from the seed.
#[derive(Clone)]
pub struct SimConfig {
    /// Devices, 1 to 16.
    pub gpus: usize,
    /// Of these, the ones that this process sees, by their numbers on the machine: they are its devices 0, 1, ... `None`: all. Faults,
    /// links and reports name devices by the machine's numbers.
    pub visible: Option<Vec<usize>>,
    /// SMs of a device, 1 to 256.
    pub sms: u32,
    /// Same seed and same program, same run.
    pub seed: u64,
    /// How late writes to peers become visible.
    pub lateness: Option<Lateness>,
    /// When cp.async, TMA loads and bulk copies run.
    pub copies: Option<Copies>,
    /// Which ready thread of a CTA runs next.
    pub pick: Option<Pick>,
    /// Mean number of threads of one CTA that run in a row.
    pub burst: Option<u32>,
    /// Links that are not as they should be. Any other joins its two devices.
    pub links: Vec<SimLink>,
    /// Whether the node's switch has multicast.
    pub multicast: bool,
    /// Faults planted from the start; see also [`SimNode::plant`](super::SimNode::plant).
    pub faults: Vec<Fault>,
    /// Sees and edits every launch.
    pub launch_hook: Option<LaunchHook>,
    /// How long (of real time) a blocked call waits for attached threads that stay away from the driver before it gives
    /// up: the node cannot advance without them.
    pub patience: Duration,
    /// The node runs what is enqueued by itself and in the wall's time, whoever waits: for callers who poll, or who launch without
    /// being attached, as on a GPU. Results are as ever; schedules are not repeated.
    pub free_running: bool,
    /// The node has a clock: kernels take the time that they would take on this machine.
    pub clock: Option<Box<Description>>,
    /// Kernels compute, and move data; every node without a clock does. On one with a clock each kernel then runs on the clock
    /// first, and again with all lanes and values, where it may ask the machine for nothing else, call by call, than it did on the
    /// clock (`docs/clock.md`, "Both"): else the run ends with a report.
    pub computes: bool,
}

impl SimConfig {
    /// A node of `gpus` devices with four SMs each, everything else drawn from `seed`.
    pub fn new(gpus: usize, seed: u64) -> Self {
        SimConfig {
            gpus,
            visible: None,
            sms: 4,
            seed,
            lateness: None,
            copies: None,
            pick: None,
            burst: None,
            links: Vec::new(),
            multicast: false,
            faults: Vec::new(),
            launch_hook: None,
            patience: Duration::from_secs(120),
            free_running: false,
            clock: None,
            computes: true,
        }
    }

    /// The node of a description, with a clock: kernels take the time that they would take there (`docs/clock.md`). They
    /// compute nothing and move no data, unless [`computes`](Self::computes) is set, too.
    pub fn clocked(node: &Description, seed: u64) -> Self {
        SimConfig {
            sms: node.compute.sms.value,
            multicast: node.link.multicast.value,
            clock: Some(Box::new(node.clone())),
            computes: false,
            ..SimConfig::new(node.gpus as usize, seed)
        }
    }
}

impl std::fmt::Debug for SimConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimConfig")
            .field("gpus", &self.gpus)
            .field("visible", &self.visible)
            .field("sms", &self.sms)
            .field("seed", &self.seed)
            .field("lateness", &self.lateness)
            .field("copies", &self.copies)
            .field("pick", &self.pick)
            .field("burst", &self.burst)
            .field("links", &self.links)
            .field("multicast", &self.multicast)
            .field("faults", &self.faults)
            .field("launch_hook", &self.launch_hook.is_some())
            .field("free_running", &self.free_running)
            .field("clock", &self.clock.as_ref().map(|node| &node.name))
            .field("computes", &self.computes)
            .finish_non_exhaustive()
    }
}
