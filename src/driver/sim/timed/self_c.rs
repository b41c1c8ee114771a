//! The Rust twins of `csrc/machine/timed/self.h`, which tells the fields.

/// Loads under way, and the first one's number.
pub(super) const LOADS: usize = 16;
pub(super) const FIRST_LOAD: u32 = 0x7c00_0000;
const GROUPS: usize = 16;

/// A unit that serves one after the other.
#[derive(Debug, Default, Clone, Copy)]
#[repr(C)]
pub(super) struct Unit {
    pub free_at: u64,
    pub busy: u64,
}

impl Unit {
    /// From `from` on for `time`, behind what others have asked for; the end.
    pub fn serve(&mut self, from: u64, time: u64) -> u64 {
        self.free_at = self.free_at.max(from) + time;
        self.busy += time;
        self.free_at
    }
}

/// The units of an SM that its warps use by themselves.
#[derive(Debug, Default, Clone, Copy)]
#[repr(C)]
pub(super) struct SmC {
    pub scheduler: [Unit; 4],
    pub tensor: [Unit; 4],
    pub shared: Unit,
}

/// What a warp knows of itself.
#[derive(Debug)]
#[repr(C)]
pub(super) struct WarpC {
    pub thread: u32,
    pub block: u32,
    pub threads: u32,
    pub grid: u32,
    pub lane: u32,
    pub lanes: u32,
    pub cluster_rank: u32,
    pub cluster_size: u32,
    pub shared: *mut u8,
    pub sm: *mut SmC,
    pub costs: *const CostsC,
    pub noted: u64,
    pub now: u64,
    pub horizon: *const u64,
    pub flops: u64,
    pub group_flops: u64,
    pub issue: u32,
    pub read: u32,
    pub written: u32,
    pub group_traffic: u32,
    pub payload: u32,
    pub part: u32,
    pub loads: u32,
    pub async_groups: u32,
    pub wgmma_groups: u32,
    pub async_ready: u64,
    pub computed: u64,
    pub pieces: u64,
    pub ready: [u64; LOADS],
    pub async_done: [u64; GROUPS],
    pub wgmma_done: [u64; GROUPS],
}

/// What instructions cost.
#[derive(Debug, Default, Clone, Copy)]
#[repr(C)]
pub(super) struct CostsC {
    pub cycle: u64,
    pub shared_byte: u64,
    pub shared_latency: u64,
    pub mma_flop: u64,
    pub wgmma_flop: u64,
    pub mma_latency: u64,
    pub wgmma_latency: u64,
}

const _: () = {
    assert!(size_of::<Unit>() == 16 && size_of::<SmC>() == 144 && size_of::<CostsC>() == 56);
    assert!(size_of::<WarpC>() == 544);
    assert!(std::mem::offset_of!(WarpC, loads) == 120 && std::mem::offset_of!(WarpC, ready) == 160);
};
