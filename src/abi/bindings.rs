// Made from csrc/abi.h by `cargo run -p abi-bindings`.

pub const TW_ABI_VERSION: u32 = 1;
pub const TW_MAX_RANKS: u32 = 16;
pub const TW_CACHE_LINE: u32 = 128;
pub const TW_TILE_PAIRS: u32 = 256;
pub const TW_TILE_HOPPER: u32 = 512;
pub const TW_TILE_REDUCER: u32 = 65536;
pub const TW_TILE_64_M: u32 = 64;
pub const TW_TILE_64_N: u32 = 64;
pub const TW_TILE_64_THREADS: u32 = 128;
pub const TW_TILE_64_SHARED: u32 = 49152;
pub const TW_TILE_128_M: u32 = 128;
pub const TW_TILE_128_N: u32 = 128;
pub const TW_TILE_128_THREADS: u32 = 256;
pub const TW_TILE_128_SHARED: u32 = 98304;
pub const TW_TILE_256_M: u32 = 128;
pub const TW_TILE_256_N: u32 = 256;
pub const TW_TILE_256_THREADS: u32 = 256;
pub const TW_TILE_256_SHARED: u32 = 147456;
pub const TW_SM90_THREADS: u32 = 384;
pub const TW_TILE_SLIM_M: u32 = 64;
pub const TW_TILE_SLIM_N: u32 = 128;
pub const TW_SM90_SLIM_SHARED: u32 = 229760;
pub const TW_SM90_128_SHARED: u32 = 229632;
pub const TW_SM90_256_SHARED: u32 = 229632;
pub const TW_TILE_F32_M: u32 = 64;
pub const TW_TILE_F32_N: u32 = 64;
pub const TW_TILE_F32_THREADS: u32 = 128;
pub const TW_TILE_F32_SHARED: u32 = 32768;
pub const TW_TILE_MEMORY_M: u32 = 16;
pub const TW_TILE_MEMORY_N: u32 = 256;
pub const TW_TILE_MEMORY_THREADS: u32 = 256;
pub const TW_TILE_MEMORY_SHARED: u32 = 64;
pub const TW_PACKET_COLUMNS: u32 = 64;
pub const TW_SPLIT_BLOCKS: u32 = 256;
pub const TW_GATHER_ROWS: u32 = 64;
pub const TW_GATHER_PIECE: u32 = 8;
pub const TW_PROBE_THREADS: u32 = 256;
pub const TW_PROBE_STRIDE: u32 = 64;
pub const TW_PULL: u32 = 256;
pub const TW_IN_SWITCH: u32 = 512;
pub const TW_LOCAL_MATS: u32 = 12;
pub const TW_LOCAL_THREADS: u32 = 256;
pub const TW_NORM_SHARED: u32 = 32768;
pub const TW_ATTENTION_SHARED: u32 = 26624;
pub const TW_EMBEDDING_SHARED: u32 = 37632;
pub const TW_LOSS_SHARED: u32 = 128;
pub const TW_STAMP_ALL: u32 = 65535;
pub const TW_STAMP_SAME: u32 = 4294967295;
pub const TW_BF16: u32 = 0;
pub const TW_F16: u32 = 1;
pub const TW_F32: u32 = 2;
pub const TW_GEMM: u32 = 0;
pub const TW_GEMM_REDUCE_SCATTER: u32 = 1;
pub const TW_GEMM_ALL_REDUCE: u32 = 2;
pub const TW_ALL_GATHER_GEMM: u32 = 3;
pub const TW_REDUCE_SCATTER: u32 = 4;
pub const TW_ALL_REDUCE: u32 = 5;
pub const TW_ALL_GATHER: u32 = 6;
pub const TW_NT: u32 = 0;
pub const TW_NN: u32 = 1;
pub const TW_TN: u32 = 2;
pub const TW_TILE_64: u32 = 0;
pub const TW_TILE_128: u32 = 1;
pub const TW_TILE_F32: u32 = 2;
pub const TW_TILE_MEMORY: u32 = 3;
pub const TW_TILE_256: u32 = 4;
pub const TW_TILE_SLIM: u32 = 5;
pub const TW_PROBE_FILL: u32 = 0;
pub const TW_PROBE_STORE: u32 = 1;
pub const TW_PROBE_CHECK: u32 = 2;
pub const TW_PROBE_ATOMICS: u32 = 3;
pub const TW_PROBE_ECHO: u32 = 4;
pub const TW_PROBE_CHASE: u32 = 5;
pub const TW_PROBE_NUMBERS: u32 = 6;
pub const TW_PROBE_SUM: u32 = 7;
pub const TW_PROBE_CAST: u32 = 8;
pub const TW_TWO_SHOT: u32 = 0;
pub const TW_ONE_SHOT: u32 = 1;
pub const TW_TAIL_NONE: u32 = 0;
pub const TW_TAIL_RMS_NORM: u32 = 1;
pub const TW_TAIL_RESIDUAL: u32 = 2;
pub const TW_EPILOGUE_NONE: u32 = 0;
pub const TW_EPILOGUE_GELU: u32 = 1;
pub const TW_EPILOGUE_SWIGLU: u32 = 2;
pub const TW_ROWS: u32 = 0;
pub const TW_COLUMNS: u32 = 1;
pub const TW_NORM_FORWARD: u32 = 0;
pub const TW_NORM_BACKWARD: u32 = 1;
pub const TW_NORM_GRADIENTS: u32 = 2;
pub const TW_NORM_X: u32 = 0;
pub const TW_NORM_GAMMA: u32 = 1;
pub const TW_NORM_BETA: u32 = 2;
pub const TW_NORM_Y: u32 = 3;
pub const TW_NORM_STATS: u32 = 4;
pub const TW_NORM_DY: u32 = 5;
pub const TW_NORM_ADD: u32 = 6;
pub const TW_NORM_DX: u32 = 7;
pub const TW_NORM_DGAMMA: u32 = 8;
pub const TW_NORM_DBETA: u32 = 9;
pub const TW_GELU: u32 = 0;
pub const TW_SWIGLU: u32 = 1;
pub const TW_GELU_BACKWARD: u32 = 2;
pub const TW_SWIGLU_BACKWARD: u32 = 3;
pub const TW_ACTIVATE_X: u32 = 0;
pub const TW_ACTIVATE_Y: u32 = 1;
pub const TW_ACTIVATE_DY: u32 = 2;
pub const TW_ACTIVATE_DX: u32 = 3;
pub const TW_ATTENTION_FORWARD: u32 = 0;
pub const TW_ATTENTION_DQ: u32 = 1;
pub const TW_ATTENTION_DKV: u32 = 2;
pub const TW_ATTENTION_Q: u32 = 0;
pub const TW_ATTENTION_K: u32 = 1;
pub const TW_ATTENTION_V: u32 = 2;
pub const TW_ATTENTION_O: u32 = 3;
pub const TW_ATTENTION_LSE: u32 = 4;
pub const TW_ATTENTION_DO: u32 = 5;
pub const TW_ATTENTION_DELTA: u32 = 6;
pub const TW_ATTENTION_DQ_OUT: u32 = 7;
pub const TW_ATTENTION_DK_OUT: u32 = 8;
pub const TW_ATTENTION_DV_OUT: u32 = 9;
pub const TW_EMBEDDING_LOOKUP: u32 = 0;
pub const TW_EMBEDDING_BACKWARD: u32 = 1;
pub const TW_EMBEDDING_IDS: u32 = 0;
pub const TW_EMBEDDING_TABLE: u32 = 1;
pub const TW_EMBEDDING_Y: u32 = 2;
pub const TW_EMBEDDING_BAD: u32 = 3;
pub const TW_LOGIT_STATS: u32 = 0;
pub const TW_LOSS: u32 = 1;
pub const TW_LOSS_BACKWARD: u32 = 2;
pub const TW_LOSS_LOGITS: u32 = 0;
pub const TW_LOSS_TARGETS: u32 = 1;
pub const TW_LOSS_STATS: u32 = 2;
pub const TW_LOSS_LSE: u32 = 3;
pub const TW_LOSS_LOSS: u32 = 4;
pub const TW_LOSS_DLOGITS: u32 = 5;
pub const TW_LOSS_BAD: u32 = 6;
pub const TW_COPY: u32 = 0;
pub const TW_ADD: u32 = 1;
pub const TW_FILL: u32 = 2;
pub const TW_MOVE_A: u32 = 0;
pub const TW_MOVE_B: u32 = 1;
pub const TW_MOVE_OUT: u32 = 2;
pub const TW_WAIT_NONE: u32 = 0;
pub const TW_WAIT_HELLO: u32 = 1;
pub const TW_WAIT_PARTIAL: u32 = 2;
pub const TW_WAIT_RESULT: u32 = 3;
pub const TW_WAIT_ROWS: u32 = 4;
pub const TW_WAIT_PACKET: u32 = 5;
pub const TW_WAIT_CREDIT: u32 = 6;
pub const TW_WAIT_CTAS: u32 = 7;
pub const TW_CAUSE_NONE: u32 = 0;
pub const TW_CAUSE_DEADLINE: u32 = 1;
pub const TW_CAUSE_ABORT: u32 = 2;
pub const TW_CAUSE_DISAGREED: u32 = 3;
pub const TW_ROLE_CTA: u32 = 0;
pub const TW_ROLE_LOADER: u32 = 1;
pub const TW_ROLE_STORER: u32 = 2;
pub const TW_ROLE_TALK: u32 = 3;
pub const TW_ROLE_MATH: u32 = 4;
pub const TW_ROLES: u32 = 5;
pub const TW_STAMP_NONE: u32 = 0;
pub const TW_STAMP_MATH: u32 = 1;
pub const TW_STAMP_PUSH: u32 = 2;
pub const TW_STAMP_STORE: u32 = 3;
pub const TW_STAMP_REDUCE: u32 = 4;
pub const TW_STAMP_COLLECT: u32 = 5;
pub const TW_STAMP_TAIL: u32 = 6;
pub const TW_STAMP_END: u32 = 7;
pub const TW_STAMP_WAIT: u32 = 16;
pub const TW_STAMP_CAME: u32 = 32;
pub const TW_RECORD_EMPTY: u32 = 0;
pub const TW_RECORD_CLAIMED: u32 = 1;
pub const TW_RECORD_COMPLETE: u32 = 2;
pub const TW_ABORT_NONE: u32 = 0;
pub const TW_ABORT_WAIT: u32 = 1;
pub const TW_ABORT_DISAGREED: u32 = 2;
pub const TW_ABORT_HOST: u32 = 3;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct TwDescriptor {
    pub op: u32,
    pub algorithm: u32,
    pub dtype: u32,
    pub wire: u32,
    pub tile: u32,
    pub grid: u32,
    pub has_bias: u32,
    pub world: u32,
    pub m: u64,
    pub n: u64,
    pub k: u64,
    pub panel: u64,
    pub tail: u32,
    pub tail_eps: u32,
    pub epilogue: u32,
    pub axis: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TwDescriptor"][::core::mem::size_of::<TwDescriptor>() - 80usize];
    ["Alignment of TwDescriptor"][::core::mem::align_of::<TwDescriptor>() - 8usize];
    [
        "Offset of field: TwDescriptor::op",
    ][::core::mem::offset_of!(TwDescriptor, op) - 0usize];
    [
        "Offset of field: TwDescriptor::algorithm",
    ][::core::mem::offset_of!(TwDescriptor, algorithm) - 4usize];
    [
        "Offset of field: TwDescriptor::dtype",
    ][::core::mem::offset_of!(TwDescriptor, dtype) - 8usize];
    [
        "Offset of field: TwDescriptor::wire",
    ][::core::mem::offset_of!(TwDescriptor, wire) - 12usize];
    [
        "Offset of field: TwDescriptor::tile",
    ][::core::mem::offset_of!(TwDescriptor, tile) - 16usize];
    [
        "Offset of field: TwDescriptor::grid",
    ][::core::mem::offset_of!(TwDescriptor, grid) - 20usize];
    [
        "Offset of field: TwDescriptor::has_bias",
    ][::core::mem::offset_of!(TwDescriptor, has_bias) - 24usize];
    [
        "Offset of field: TwDescriptor::world",
    ][::core::mem::offset_of!(TwDescriptor, world) - 28usize];
    [
        "Offset of field: TwDescriptor::m",
    ][::core::mem::offset_of!(TwDescriptor, m) - 32usize];
    [
        "Offset of field: TwDescriptor::n",
    ][::core::mem::offset_of!(TwDescriptor, n) - 40usize];
    [
        "Offset of field: TwDescriptor::k",
    ][::core::mem::offset_of!(TwDescriptor, k) - 48usize];
    [
        "Offset of field: TwDescriptor::panel",
    ][::core::mem::offset_of!(TwDescriptor, panel) - 56usize];
    [
        "Offset of field: TwDescriptor::tail",
    ][::core::mem::offset_of!(TwDescriptor, tail) - 64usize];
    [
        "Offset of field: TwDescriptor::tail_eps",
    ][::core::mem::offset_of!(TwDescriptor, tail_eps) - 68usize];
    [
        "Offset of field: TwDescriptor::epilogue",
    ][::core::mem::offset_of!(TwDescriptor, epilogue) - 72usize];
    [
        "Offset of field: TwDescriptor::axis",
    ][::core::mem::offset_of!(TwDescriptor, axis) - 76usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct TwWaitRecord {
    pub state: u32,
    pub kind: u32,
    pub cause: u32,
    pub op: u32,
    pub rank: u32,
    pub peer: u32,
    pub tile: u32,
    pub pad_: u32,
    pub epoch: u64,
    pub expected: u64,
    pub seen: u64,
    pub waited_ns: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TwWaitRecord"][::core::mem::size_of::<TwWaitRecord>() - 64usize];
    ["Alignment of TwWaitRecord"][::core::mem::align_of::<TwWaitRecord>() - 8usize];
    [
        "Offset of field: TwWaitRecord::state",
    ][::core::mem::offset_of!(TwWaitRecord, state) - 0usize];
    [
        "Offset of field: TwWaitRecord::kind",
    ][::core::mem::offset_of!(TwWaitRecord, kind) - 4usize];
    [
        "Offset of field: TwWaitRecord::cause",
    ][::core::mem::offset_of!(TwWaitRecord, cause) - 8usize];
    [
        "Offset of field: TwWaitRecord::op",
    ][::core::mem::offset_of!(TwWaitRecord, op) - 12usize];
    [
        "Offset of field: TwWaitRecord::rank",
    ][::core::mem::offset_of!(TwWaitRecord, rank) - 16usize];
    [
        "Offset of field: TwWaitRecord::peer",
    ][::core::mem::offset_of!(TwWaitRecord, peer) - 20usize];
    [
        "Offset of field: TwWaitRecord::tile",
    ][::core::mem::offset_of!(TwWaitRecord, tile) - 24usize];
    [
        "Offset of field: TwWaitRecord::pad_",
    ][::core::mem::offset_of!(TwWaitRecord, pad_) - 28usize];
    [
        "Offset of field: TwWaitRecord::epoch",
    ][::core::mem::offset_of!(TwWaitRecord, epoch) - 32usize];
    [
        "Offset of field: TwWaitRecord::expected",
    ][::core::mem::offset_of!(TwWaitRecord, expected) - 40usize];
    [
        "Offset of field: TwWaitRecord::seen",
    ][::core::mem::offset_of!(TwWaitRecord, seen) - 48usize];
    [
        "Offset of field: TwWaitRecord::waited_ns",
    ][::core::mem::offset_of!(TwWaitRecord, waited_ns) - 56usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct TwHello {
    pub epoch: u64,
    pub hash: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TwHello"][::core::mem::size_of::<TwHello>() - 16usize];
    ["Alignment of TwHello"][::core::mem::align_of::<TwHello>() - 8usize];
    [
        "Offset of field: TwHello::epoch",
    ][::core::mem::offset_of!(TwHello, epoch) - 0usize];
    ["Offset of field: TwHello::hash"][::core::mem::offset_of!(TwHello, hash) - 8usize];
};
pub const TW_PATH_FUSED: u32 = 0;
pub const TW_PATH_UNFUSED: u32 = 1;
pub const TW_PATHS: u32 = 2;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct TwReport {
    pub abort: u64,
    pub pad_: [u64; 15usize],
    pub operations: [u64; 2usize],
    pub bytes_sent: [u64; 2usize],
    pub signals_sent: u64,
    pub pad1_: [u64; 11usize],
    pub longest_wait_ns: [u64; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TwReport"][::core::mem::size_of::<TwReport>() - 384usize];
    ["Alignment of TwReport"][::core::mem::align_of::<TwReport>() - 8usize];
    [
        "Offset of field: TwReport::abort",
    ][::core::mem::offset_of!(TwReport, abort) - 0usize];
    [
        "Offset of field: TwReport::pad_",
    ][::core::mem::offset_of!(TwReport, pad_) - 8usize];
    [
        "Offset of field: TwReport::operations",
    ][::core::mem::offset_of!(TwReport, operations) - 128usize];
    [
        "Offset of field: TwReport::bytes_sent",
    ][::core::mem::offset_of!(TwReport, bytes_sent) - 144usize];
    [
        "Offset of field: TwReport::signals_sent",
    ][::core::mem::offset_of!(TwReport, signals_sent) - 160usize];
    [
        "Offset of field: TwReport::pad1_",
    ][::core::mem::offset_of!(TwReport, pad1_) - 168usize];
    [
        "Offset of field: TwReport::longest_wait_ns",
    ][::core::mem::offset_of!(TwReport, longest_wait_ns) - 256usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct TwTrack {
    pub stamps: u64,
    pub began_ns: u64,
    pub ended_ns: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TwTrack"][::core::mem::size_of::<TwTrack>() - 24usize];
    ["Alignment of TwTrack"][::core::mem::align_of::<TwTrack>() - 8usize];
    [
        "Offset of field: TwTrack::stamps",
    ][::core::mem::offset_of!(TwTrack, stamps) - 0usize];
    [
        "Offset of field: TwTrack::began_ns",
    ][::core::mem::offset_of!(TwTrack, began_ns) - 8usize];
    [
        "Offset of field: TwTrack::ended_ns",
    ][::core::mem::offset_of!(TwTrack, ended_ns) - 16usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct TwStamp {
    pub what: u64,
    pub ns: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TwStamp"][::core::mem::size_of::<TwStamp>() - 16usize];
    ["Alignment of TwStamp"][::core::mem::align_of::<TwStamp>() - 8usize];
    ["Offset of field: TwStamp::what"][::core::mem::offset_of!(TwStamp, what) - 0usize];
    ["Offset of field: TwStamp::ns"][::core::mem::offset_of!(TwStamp, ns) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct TwControl {
    pub epoch: u64,
    pub round: u64,
    pub ctas_done: u32,
    pub panel_done: [u32; 2usize],
    pub pad0_: u32,
    pub epoch_started: u64,
    pub epoch_finished: u64,
    pub pad6_: [u64; 2usize],
    pub started_ns: u64,
    pub finished_ns: u64,
    pub met_ctas: u32,
    pub pad5_: u32,
    pub met_epoch: u64,
    pub pad1_: [u64; 4usize],
    pub abort: u64,
    pub pad2_: [u64; 15usize],
    pub current: TwDescriptor,
    pub current_hash: u64,
    pub pad3_: [u64; 5usize],
    pub record: TwWaitRecord,
    pub pad4_: [u64; 8usize],
    pub hello: [[TwHello; 16usize]; 2usize],
    pub credit: [[u64; 16usize]; 2usize],
    pub totals: TwReport,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TwControl"][::core::mem::size_of::<TwControl>() - 1664usize];
    ["Alignment of TwControl"][::core::mem::align_of::<TwControl>() - 8usize];
    [
        "Offset of field: TwControl::epoch",
    ][::core::mem::offset_of!(TwControl, epoch) - 0usize];
    [
        "Offset of field: TwControl::round",
    ][::core::mem::offset_of!(TwControl, round) - 8usize];
    [
        "Offset of field: TwControl::ctas_done",
    ][::core::mem::offset_of!(TwControl, ctas_done) - 16usize];
    [
        "Offset of field: TwControl::panel_done",
    ][::core::mem::offset_of!(TwControl, panel_done) - 20usize];
    [
        "Offset of field: TwControl::pad0_",
    ][::core::mem::offset_of!(TwControl, pad0_) - 28usize];
    [
        "Offset of field: TwControl::epoch_started",
    ][::core::mem::offset_of!(TwControl, epoch_started) - 32usize];
    [
        "Offset of field: TwControl::epoch_finished",
    ][::core::mem::offset_of!(TwControl, epoch_finished) - 40usize];
    [
        "Offset of field: TwControl::pad6_",
    ][::core::mem::offset_of!(TwControl, pad6_) - 48usize];
    [
        "Offset of field: TwControl::started_ns",
    ][::core::mem::offset_of!(TwControl, started_ns) - 64usize];
    [
        "Offset of field: TwControl::finished_ns",
    ][::core::mem::offset_of!(TwControl, finished_ns) - 72usize];
    [
        "Offset of field: TwControl::met_ctas",
    ][::core::mem::offset_of!(TwControl, met_ctas) - 80usize];
    [
        "Offset of field: TwControl::pad5_",
    ][::core::mem::offset_of!(TwControl, pad5_) - 84usize];
    [
        "Offset of field: TwControl::met_epoch",
    ][::core::mem::offset_of!(TwControl, met_epoch) - 88usize];
    [
        "Offset of field: TwControl::pad1_",
    ][::core::mem::offset_of!(TwControl, pad1_) - 96usize];
    [
        "Offset of field: TwControl::abort",
    ][::core::mem::offset_of!(TwControl, abort) - 128usize];
    [
        "Offset of field: TwControl::pad2_",
    ][::core::mem::offset_of!(TwControl, pad2_) - 136usize];
    [
        "Offset of field: TwControl::current",
    ][::core::mem::offset_of!(TwControl, current) - 256usize];
    [
        "Offset of field: TwControl::current_hash",
    ][::core::mem::offset_of!(TwControl, current_hash) - 336usize];
    [
        "Offset of field: TwControl::pad3_",
    ][::core::mem::offset_of!(TwControl, pad3_) - 344usize];
    [
        "Offset of field: TwControl::record",
    ][::core::mem::offset_of!(TwControl, record) - 384usize];
    [
        "Offset of field: TwControl::pad4_",
    ][::core::mem::offset_of!(TwControl, pad4_) - 448usize];
    [
        "Offset of field: TwControl::hello",
    ][::core::mem::offset_of!(TwControl, hello) - 512usize];
    [
        "Offset of field: TwControl::credit",
    ][::core::mem::offset_of!(TwControl, credit) - 1024usize];
    [
        "Offset of field: TwControl::totals",
    ][::core::mem::offset_of!(TwControl, totals) - 1280usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct TwGroup {
    pub heap: [u64; 16usize],
    pub signals: u64,
    pub signals_half: u64,
    pub packets: u64,
    pub packets_half: u64,
    pub staging: u64,
    pub staging_half: u64,
    pub multicast: u64,
    pub report: u64,
    pub deadline_ns: u64,
    pub rank: u32,
    pub world: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TwGroup"][::core::mem::size_of::<TwGroup>() - 208usize];
    ["Alignment of TwGroup"][::core::mem::align_of::<TwGroup>() - 8usize];
    ["Offset of field: TwGroup::heap"][::core::mem::offset_of!(TwGroup, heap) - 0usize];
    [
        "Offset of field: TwGroup::signals",
    ][::core::mem::offset_of!(TwGroup, signals) - 128usize];
    [
        "Offset of field: TwGroup::signals_half",
    ][::core::mem::offset_of!(TwGroup, signals_half) - 136usize];
    [
        "Offset of field: TwGroup::packets",
    ][::core::mem::offset_of!(TwGroup, packets) - 144usize];
    [
        "Offset of field: TwGroup::packets_half",
    ][::core::mem::offset_of!(TwGroup, packets_half) - 152usize];
    [
        "Offset of field: TwGroup::staging",
    ][::core::mem::offset_of!(TwGroup, staging) - 160usize];
    [
        "Offset of field: TwGroup::staging_half",
    ][::core::mem::offset_of!(TwGroup, staging_half) - 168usize];
    [
        "Offset of field: TwGroup::multicast",
    ][::core::mem::offset_of!(TwGroup, multicast) - 176usize];
    [
        "Offset of field: TwGroup::report",
    ][::core::mem::offset_of!(TwGroup, report) - 184usize];
    [
        "Offset of field: TwGroup::deadline_ns",
    ][::core::mem::offset_of!(TwGroup, deadline_ns) - 192usize];
    [
        "Offset of field: TwGroup::rank",
    ][::core::mem::offset_of!(TwGroup, rank) - 200usize];
    [
        "Offset of field: TwGroup::world",
    ][::core::mem::offset_of!(TwGroup, world) - 204usize];
};
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone)]
pub struct TwTensorMap {
    pub opaque: [u64; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TwTensorMap"][::core::mem::size_of::<TwTensorMap>() - 128usize];
    ["Alignment of TwTensorMap"][::core::mem::align_of::<TwTensorMap>() - 64usize];
    [
        "Offset of field: TwTensorMap::opaque",
    ][::core::mem::offset_of!(TwTensorMap, opaque) - 0usize];
};
impl Default for TwTensorMap {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct TwMat {
    pub at: u64,
    pub ld: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TwMat"][::core::mem::size_of::<TwMat>() - 16usize];
    ["Alignment of TwMat"][::core::mem::align_of::<TwMat>() - 8usize];
    ["Offset of field: TwMat::at"][::core::mem::offset_of!(TwMat, at) - 0usize];
    ["Offset of field: TwMat::ld"][::core::mem::offset_of!(TwMat, ld) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct TwLocal {
    pub mat: [TwMat; 12usize],
    pub first: i64,
    pub vocabulary: i64,
    pub ignore: i64,
    pub what: u32,
    pub rows: u32,
    pub cols: u32,
    pub row_threads: u32,
    pub value: u32,
    pub centred: u32,
    pub accumulate: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_size: u32,
    pub seq: u32,
    pub parts: u32,
    pub ignores: u32,
    pub vectors: u32,
    pub ids: u32,
    pub pad_: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TwLocal"][::core::mem::size_of::<TwLocal>() - 280usize];
    ["Alignment of TwLocal"][::core::mem::align_of::<TwLocal>() - 8usize];
    ["Offset of field: TwLocal::mat"][::core::mem::offset_of!(TwLocal, mat) - 0usize];
    [
        "Offset of field: TwLocal::first",
    ][::core::mem::offset_of!(TwLocal, first) - 192usize];
    [
        "Offset of field: TwLocal::vocabulary",
    ][::core::mem::offset_of!(TwLocal, vocabulary) - 200usize];
    [
        "Offset of field: TwLocal::ignore",
    ][::core::mem::offset_of!(TwLocal, ignore) - 208usize];
    [
        "Offset of field: TwLocal::what",
    ][::core::mem::offset_of!(TwLocal, what) - 216usize];
    [
        "Offset of field: TwLocal::rows",
    ][::core::mem::offset_of!(TwLocal, rows) - 220usize];
    [
        "Offset of field: TwLocal::cols",
    ][::core::mem::offset_of!(TwLocal, cols) - 224usize];
    [
        "Offset of field: TwLocal::row_threads",
    ][::core::mem::offset_of!(TwLocal, row_threads) - 228usize];
    [
        "Offset of field: TwLocal::value",
    ][::core::mem::offset_of!(TwLocal, value) - 232usize];
    [
        "Offset of field: TwLocal::centred",
    ][::core::mem::offset_of!(TwLocal, centred) - 236usize];
    [
        "Offset of field: TwLocal::accumulate",
    ][::core::mem::offset_of!(TwLocal, accumulate) - 240usize];
    [
        "Offset of field: TwLocal::heads",
    ][::core::mem::offset_of!(TwLocal, heads) - 244usize];
    [
        "Offset of field: TwLocal::kv_heads",
    ][::core::mem::offset_of!(TwLocal, kv_heads) - 248usize];
    [
        "Offset of field: TwLocal::head_size",
    ][::core::mem::offset_of!(TwLocal, head_size) - 252usize];
    ["Offset of field: TwLocal::seq"][::core::mem::offset_of!(TwLocal, seq) - 256usize];
    [
        "Offset of field: TwLocal::parts",
    ][::core::mem::offset_of!(TwLocal, parts) - 260usize];
    [
        "Offset of field: TwLocal::ignores",
    ][::core::mem::offset_of!(TwLocal, ignores) - 264usize];
    [
        "Offset of field: TwLocal::vectors",
    ][::core::mem::offset_of!(TwLocal, vectors) - 268usize];
    ["Offset of field: TwLocal::ids"][::core::mem::offset_of!(TwLocal, ids) - 272usize];
    [
        "Offset of field: TwLocal::pad_",
    ][::core::mem::offset_of!(TwLocal, pad_) - 276usize];
};
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone)]
pub struct TwParams {
    pub map_x: TwTensorMap,
    pub map_weight: TwTensorMap,
    pub map_gathered: TwTensorMap,
    pub map_out: TwTensorMap,
    pub group: TwGroup,
    pub desc: TwDescriptor,
    pub hash: u64,
    pub x: u64,
    pub weight: u64,
    pub bias: u64,
    pub addend: u64,
    pub out: u64,
    pub x_ld: u64,
    pub weight_ld: u64,
    pub addend_ld: u64,
    pub out_ld: u64,
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub chunk: u32,
    pub panels: u32,
    pub panel: u32,
    pub window: u32,
    pub comm_ctas: u32,
    pub reducers: u32,
    pub tiles: u32,
    pub tiles_n: u32,
    pub waves: u32,
    pub slots: u32,
    pub wave_slots: u32,
    pub result_slots: u32,
    pub gather_rows: u32,
    pub piece: u32,
    pub cluster: u32,
    pub out_boxes: u32,
    pub splits: u32,
    pub split_space: u64,
    pub residual: u64,
    pub residual_ld: u64,
    pub gamma: u64,
    pub tail_rows: u32,
    pub tail_cols: u32,
    pub path: u32,
    pub stamp_ctas: u32,
    pub stamp_capacity: u32,
    pub in_turn: u32,
    pub stamps: u64,
    pub layout: u32,
    pub columns: u32,
    pub saved: u64,
    pub saved_ld: u64,
    pub local: TwLocal,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TwParams"][::core::mem::size_of::<TwParams>() - 1344usize];
    ["Alignment of TwParams"][::core::mem::align_of::<TwParams>() - 64usize];
    [
        "Offset of field: TwParams::map_x",
    ][::core::mem::offset_of!(TwParams, map_x) - 0usize];
    [
        "Offset of field: TwParams::map_weight",
    ][::core::mem::offset_of!(TwParams, map_weight) - 128usize];
    [
        "Offset of field: TwParams::map_gathered",
    ][::core::mem::offset_of!(TwParams, map_gathered) - 256usize];
    [
        "Offset of field: TwParams::map_out",
    ][::core::mem::offset_of!(TwParams, map_out) - 384usize];
    [
        "Offset of field: TwParams::group",
    ][::core::mem::offset_of!(TwParams, group) - 512usize];
    [
        "Offset of field: TwParams::desc",
    ][::core::mem::offset_of!(TwParams, desc) - 720usize];
    [
        "Offset of field: TwParams::hash",
    ][::core::mem::offset_of!(TwParams, hash) - 800usize];
    ["Offset of field: TwParams::x"][::core::mem::offset_of!(TwParams, x) - 808usize];
    [
        "Offset of field: TwParams::weight",
    ][::core::mem::offset_of!(TwParams, weight) - 816usize];
    [
        "Offset of field: TwParams::bias",
    ][::core::mem::offset_of!(TwParams, bias) - 824usize];
    [
        "Offset of field: TwParams::addend",
    ][::core::mem::offset_of!(TwParams, addend) - 832usize];
    [
        "Offset of field: TwParams::out",
    ][::core::mem::offset_of!(TwParams, out) - 840usize];
    [
        "Offset of field: TwParams::x_ld",
    ][::core::mem::offset_of!(TwParams, x_ld) - 848usize];
    [
        "Offset of field: TwParams::weight_ld",
    ][::core::mem::offset_of!(TwParams, weight_ld) - 856usize];
    [
        "Offset of field: TwParams::addend_ld",
    ][::core::mem::offset_of!(TwParams, addend_ld) - 864usize];
    [
        "Offset of field: TwParams::out_ld",
    ][::core::mem::offset_of!(TwParams, out_ld) - 872usize];
    ["Offset of field: TwParams::m"][::core::mem::offset_of!(TwParams, m) - 880usize];
    ["Offset of field: TwParams::n"][::core::mem::offset_of!(TwParams, n) - 884usize];
    ["Offset of field: TwParams::k"][::core::mem::offset_of!(TwParams, k) - 888usize];
    [
        "Offset of field: TwParams::chunk",
    ][::core::mem::offset_of!(TwParams, chunk) - 892usize];
    [
        "Offset of field: TwParams::panels",
    ][::core::mem::offset_of!(TwParams, panels) - 896usize];
    [
        "Offset of field: TwParams::panel",
    ][::core::mem::offset_of!(TwParams, panel) - 900usize];
    [
        "Offset of field: TwParams::window",
    ][::core::mem::offset_of!(TwParams, window) - 904usize];
    [
        "Offset of field: TwParams::comm_ctas",
    ][::core::mem::offset_of!(TwParams, comm_ctas) - 908usize];
    [
        "Offset of field: TwParams::reducers",
    ][::core::mem::offset_of!(TwParams, reducers) - 912usize];
    [
        "Offset of field: TwParams::tiles",
    ][::core::mem::offset_of!(TwParams, tiles) - 916usize];
    [
        "Offset of field: TwParams::tiles_n",
    ][::core::mem::offset_of!(TwParams, tiles_n) - 920usize];
    [
        "Offset of field: TwParams::waves",
    ][::core::mem::offset_of!(TwParams, waves) - 924usize];
    [
        "Offset of field: TwParams::slots",
    ][::core::mem::offset_of!(TwParams, slots) - 928usize];
    [
        "Offset of field: TwParams::wave_slots",
    ][::core::mem::offset_of!(TwParams, wave_slots) - 932usize];
    [
        "Offset of field: TwParams::result_slots",
    ][::core::mem::offset_of!(TwParams, result_slots) - 936usize];
    [
        "Offset of field: TwParams::gather_rows",
    ][::core::mem::offset_of!(TwParams, gather_rows) - 940usize];
    [
        "Offset of field: TwParams::piece",
    ][::core::mem::offset_of!(TwParams, piece) - 944usize];
    [
        "Offset of field: TwParams::cluster",
    ][::core::mem::offset_of!(TwParams, cluster) - 948usize];
    [
        "Offset of field: TwParams::out_boxes",
    ][::core::mem::offset_of!(TwParams, out_boxes) - 952usize];
    [
        "Offset of field: TwParams::splits",
    ][::core::mem::offset_of!(TwParams, splits) - 956usize];
    [
        "Offset of field: TwParams::split_space",
    ][::core::mem::offset_of!(TwParams, split_space) - 960usize];
    [
        "Offset of field: TwParams::residual",
    ][::core::mem::offset_of!(TwParams, residual) - 968usize];
    [
        "Offset of field: TwParams::residual_ld",
    ][::core::mem::offset_of!(TwParams, residual_ld) - 976usize];
    [
        "Offset of field: TwParams::gamma",
    ][::core::mem::offset_of!(TwParams, gamma) - 984usize];
    [
        "Offset of field: TwParams::tail_rows",
    ][::core::mem::offset_of!(TwParams, tail_rows) - 992usize];
    [
        "Offset of field: TwParams::tail_cols",
    ][::core::mem::offset_of!(TwParams, tail_cols) - 996usize];
    [
        "Offset of field: TwParams::path",
    ][::core::mem::offset_of!(TwParams, path) - 1000usize];
    [
        "Offset of field: TwParams::stamp_ctas",
    ][::core::mem::offset_of!(TwParams, stamp_ctas) - 1004usize];
    [
        "Offset of field: TwParams::stamp_capacity",
    ][::core::mem::offset_of!(TwParams, stamp_capacity) - 1008usize];
    [
        "Offset of field: TwParams::in_turn",
    ][::core::mem::offset_of!(TwParams, in_turn) - 1012usize];
    [
        "Offset of field: TwParams::stamps",
    ][::core::mem::offset_of!(TwParams, stamps) - 1016usize];
    [
        "Offset of field: TwParams::layout",
    ][::core::mem::offset_of!(TwParams, layout) - 1024usize];
    [
        "Offset of field: TwParams::columns",
    ][::core::mem::offset_of!(TwParams, columns) - 1028usize];
    [
        "Offset of field: TwParams::saved",
    ][::core::mem::offset_of!(TwParams, saved) - 1032usize];
    [
        "Offset of field: TwParams::saved_ld",
    ][::core::mem::offset_of!(TwParams, saved_ld) - 1040usize];
    [
        "Offset of field: TwParams::local",
    ][::core::mem::offset_of!(TwParams, local) - 1048usize];
};
impl Default for TwParams {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct TwProbeResult {
    pub wrong: u64,
    pub olds: u64,
    pub seen: u64,
    pub started_ns: u64,
    pub finished_ns: u64,
    pub first: u32,
    pub pad_: u32,
    pub pad2_: [u64; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TwProbeResult"][::core::mem::size_of::<TwProbeResult>() - 64usize];
    ["Alignment of TwProbeResult"][::core::mem::align_of::<TwProbeResult>() - 8usize];
    [
        "Offset of field: TwProbeResult::wrong",
    ][::core::mem::offset_of!(TwProbeResult, wrong) - 0usize];
    [
        "Offset of field: TwProbeResult::olds",
    ][::core::mem::offset_of!(TwProbeResult, olds) - 8usize];
    [
        "Offset of field: TwProbeResult::seen",
    ][::core::mem::offset_of!(TwProbeResult, seen) - 16usize];
    [
        "Offset of field: TwProbeResult::started_ns",
    ][::core::mem::offset_of!(TwProbeResult, started_ns) - 24usize];
    [
        "Offset of field: TwProbeResult::finished_ns",
    ][::core::mem::offset_of!(TwProbeResult, finished_ns) - 32usize];
    [
        "Offset of field: TwProbeResult::first",
    ][::core::mem::offset_of!(TwProbeResult, first) - 40usize];
    [
        "Offset of field: TwProbeResult::pad_",
    ][::core::mem::offset_of!(TwProbeResult, pad_) - 44usize];
    [
        "Offset of field: TwProbeResult::pad2_",
    ][::core::mem::offset_of!(TwProbeResult, pad2_) - 48usize];
};
