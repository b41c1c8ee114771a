// The structs that Rust and the kernels share. C99 and C++17; sizes and offsets are asserted here, and
// `src/abi/bindings.rs` is made from this file by bindgen (`cargo run -p abi-bindings`).
#pragma once
#include <stdint.h>

#define TW_ABI_VERSION 1
#define TW_MAX_RANKS 16
#define TW_CACHE_LINE 128

// Element types, `TwDescriptor::dtype` and `::wire`.
enum { TW_BF16 = 0, TW_F16 = 1, TW_F32 = 2 };

// Operations, `TwDescriptor::op`.
enum {
  TW_GEMM = 0,  // no communication: the first half of an unfused operation
  TW_GEMM_REDUCE_SCATTER = 1,
  TW_GEMM_ALL_REDUCE = 2,
  TW_ALL_GATHER_GEMM = 3,
  TW_REDUCE_SCATTER = 4,
  TW_ALL_REDUCE = 5,
  TW_ALL_GATHER = 6
};

// How a GEMM's operands lie in memory, row-major, `TwParams::layout`.
enum {
  TW_NT = 0,  // x [m, k], weight [n, k]: y = x w^T
  TW_NN = 1,  // x [m, k], weight [k, n]: dx = dy w
  TW_TN = 2   // x [k, m], weight [k, n]: dw = dy^T x; a GEMM of its own only
};

// Tile configurations, `TwDescriptor::tile`; the constants below are checked where the tiles are defined.
enum { TW_TILE_64 = 0, TW_TILE_128 = 1, TW_TILE_F32 = 2, TW_TILE_MEMORY = 3, TW_TILE_256 = 4, TW_TILE_SLIM = 5 };
#define TW_TILE_PAIRS 256     // added where blocks are taken in pairs (`TwParams::cluster` 2)
#define TW_TILE_HOPPER 512    // added where ranks chose the Hopper mainloop, whatever operands make of it on one of them
#define TW_TILE_REDUCER 65536 // added for every CTA that only reduces (`TwParams::reducers`)
#define TW_TILE_64_M 64       // mma.sync, bf16 and f16
#define TW_TILE_64_N 64
#define TW_TILE_64_THREADS 128
#define TW_TILE_64_SHARED 49152
#define TW_TILE_128_M 128     // mma.sync, bf16 and f16
#define TW_TILE_128_N 128
#define TW_TILE_128_THREADS 256
#define TW_TILE_128_SHARED 98304
#define TW_TILE_256_M 128     // bf16 and f16; mma.sync only where a rank's operands are beyond TMA
#define TW_TILE_256_N 256
#define TW_TILE_256_THREADS 256
#define TW_TILE_256_SHARED 147456
#define TW_SM90_THREADS 384   // Hopper kernels, and their shared memory by tile
#define TW_TILE_SLIM_M 64     // wgmma only: few rows
#define TW_TILE_SLIM_N 128
#define TW_SM90_SLIM_SHARED 229760
#define TW_SM90_128_SHARED 229632
#define TW_SM90_256_SHARED 229632
#define TW_TILE_F32_M 64      // FFMA
#define TW_TILE_F32_N 64
#define TW_TILE_F32_THREADS 128
#define TW_TILE_F32_SHARED 32768
#define TW_TILE_MEMORY_M 16   // plain collectives: values come from memory; of a flat all-reduce (m = 1) 1 x 4096
#define TW_TILE_MEMORY_N 256
#define TW_TILE_MEMORY_THREADS 256
#define TW_TILE_MEMORY_SHARED 64
#define TW_PACKET_COLUMNS 64  // one-shot: a row of packets is padded to so many values
#define TW_SPLIT_BLOCKS 256   // the most blocks whose splits are computed by several CTAs
#define TW_GATHER_ROWS 64     // the most rows of a block of a plain all-gather
#define TW_GATHER_PIECE 8     // of an all-gather + GEMM: the fewest rows that are pushed, and signalled, together

// What a launch of the kernel `probe` does, `TwParams::k`; csrc/kernels/probe.h tells what of TwParams it reads.
enum {
  TW_PROBE_FILL = 0,     // writes the area's pattern, guards and all
  TW_PROBE_STORE = 1,    // writes the complement over what is between the guards
  TW_PROBE_CHECK = 2,    // reads the area and counts what is not as after a fill and a store
  TW_PROBE_ATOMICS = 3,  // adds to one word, against others
  TW_PROBE_ECHO = 4,     // sends words to and fro
  TW_PROBE_CHASE = 5,    // loads whose addresses depend on the load before
  TW_PROBE_NUMBERS = 6,  // writes this member's f32 numbers
  TW_PROBE_SUM = 7,      // reads the sums over all members through the switch, and counts what is wrong
  TW_PROBE_CAST = 8      // TW_PROBE_STORE, through the switch
};
#define TW_PROBE_THREADS 256
#define TW_PROBE_STRIDE 64     // TW_PROBE_CHASE: the most vectors from one load to the next

// How an operation is carried out, `TwDescriptor::algorithm`. Part of the hello's hash: all ranks must agree.
enum { TW_TWO_SHOT = 0, TW_ONE_SHOT = 1 };
#define TW_PULL 256       // added where partials and results are loaded from the memory of who made them, not pushed
#define TW_IN_SWITCH 512  // added where partials are added up, and results multiplied, by the switch

// What follows a sum over ranks in the same kernel, `TwDescriptor::tail`: csrc/kernels/tail.h; a residual, added before the sum is
// rounded (`end_sum`, csrc/kernels/partials.h).
enum { TW_TAIL_NONE = 0, TW_TAIL_RMS_NORM = 1, TW_TAIL_RESIDUAL = 2 };

// What is made of a product in the kernel that computes it, `TwDescriptor::epilogue` (csrc/tile/epilogue.h).
enum { TW_EPILOGUE_NONE = 0, TW_EPILOGUE_GELU = 1, TW_EPILOGUE_SWIGLU = 2 };

// How gathered matrices stand, `TwDescriptor::axis`.
enum {
  TW_ROWS = 0,     // one below the other
  TW_COLUMNS = 1   // side by side; plain all-gathers
};

// Kernels of a rank alone (csrc/kernels/local): what a launch of an entry does, `TwLocal::what`, and where its operands are in
// `TwLocal::mat`.
enum { TW_NORM_FORWARD = 0, TW_NORM_BACKWARD = 1, TW_NORM_GRADIENTS = 2 };  // `normalise`
enum {
  TW_NORM_X = 0, TW_NORM_GAMMA = 1, TW_NORM_BETA = 2, TW_NORM_Y = 3, TW_NORM_STATS = 4, TW_NORM_DY = 5, TW_NORM_ADD = 6,
  TW_NORM_DX = 7, TW_NORM_DGAMMA = 8, TW_NORM_DBETA = 9
};
enum { TW_GELU = 0, TW_SWIGLU = 1, TW_GELU_BACKWARD = 2, TW_SWIGLU_BACKWARD = 3 };  // `activate`
enum { TW_ACTIVATE_X = 0, TW_ACTIVATE_Y = 1, TW_ACTIVATE_DY = 2, TW_ACTIVATE_DX = 3 };
enum { TW_ATTENTION_FORWARD = 0, TW_ATTENTION_DQ = 1, TW_ATTENTION_DKV = 2 };  // `attention`
enum {
  TW_ATTENTION_Q = 0, TW_ATTENTION_K = 1, TW_ATTENTION_V = 2, TW_ATTENTION_O = 3, TW_ATTENTION_LSE = 4, TW_ATTENTION_DO = 5,
  TW_ATTENTION_DELTA = 6, TW_ATTENTION_DQ_OUT = 7, TW_ATTENTION_DK_OUT = 8, TW_ATTENTION_DV_OUT = 9
};
enum { TW_EMBEDDING_LOOKUP = 0, TW_EMBEDDING_BACKWARD = 1 };  // `embedding`
enum { TW_EMBEDDING_IDS = 0, TW_EMBEDDING_TABLE = 1, TW_EMBEDDING_Y = 2, TW_EMBEDDING_BAD = 3 };
enum { TW_LOGIT_STATS = 0, TW_LOSS = 1, TW_LOSS_BACKWARD = 2 };  // `cross_entropy`
enum {
  TW_LOSS_LOGITS = 0, TW_LOSS_TARGETS = 1, TW_LOSS_STATS = 2, TW_LOSS_LSE = 3, TW_LOSS_LOSS = 4, TW_LOSS_DLOGITS = 5,
  TW_LOSS_BAD = 6
};
enum { TW_COPY = 0, TW_ADD = 1, TW_FILL = 2 };  // `move_matrix`
enum { TW_MOVE_A = 0, TW_MOVE_B = 1, TW_MOVE_OUT = 2 };
#define TW_LOCAL_MATS 12
#define TW_LOCAL_THREADS 256
// Their shared memory. At two CTAs an SM any GPU has as much.
#define TW_NORM_SHARED 32768
#define TW_ATTENTION_SHARED 26624
#define TW_EMBEDDING_SHARED 37632
#define TW_LOSS_SHARED 128

// What a wait waited for, `TwWaitRecord::kind`.
enum {
  TW_WAIT_NONE = 0,
  TW_WAIT_HELLO = 1,   // the peer's first word of this operation
  TW_WAIT_PARTIAL = 2, // the peer's partial of `tile`
  TW_WAIT_RESULT = 3,  // the reduced `tile` from its owner
  TW_WAIT_ROWS = 4,    // row block `tile` of the peer's x
  TW_WAIT_PACKET = 5,  // a one-shot packet of `tile`
  TW_WAIT_CREDIT = 6,  // the peer has consumed a staging half
  TW_WAIT_CTAS = 7     // this rank's own CTAs, which meet before a tail; `peer` is the rank
};

// Why a wait ended unsatisfied, `TwWaitRecord::cause`.
enum {
  TW_CAUSE_NONE = 0,
  TW_CAUSE_DEADLINE = 1,
  TW_CAUSE_ABORT = 2,     // another rank or the host raised the abort word
  TW_CAUSE_DISAGREED = 3  // the peer's hello carries another hash: `expected` ours, `seen` theirs
};

// Where an operation's time goes (csrc/protocol/stamp.h): who stamps. A CTA of a portable kernel is one role, and so is one that
// only reduces; a Hopper kernel's others have four.
enum { TW_ROLE_CTA = 0, TW_ROLE_LOADER = 1, TW_ROLE_STORER = 2, TW_ROLE_TALK = 3, TW_ROLE_MATH = 4, TW_ROLES = 5 };

// What a role does from one stamp to the next, the low byte of `TwStamp::what`.
enum {
  TW_STAMP_NONE = 0,     // it ends what it did
  TW_STAMP_MATH = 1,     // the mainloop of block `tile`, from its first operands on
  TW_STAMP_PUSH = 2,     // a partial on its way to its owner `peer`, or rows to all
  TW_STAMP_STORE = 3,    // a product leaves the threads that computed it, for the output or for whoever sends it
  TW_STAMP_REDUCE = 4,   // partials are added, and the result goes out
  TW_STAMP_COLLECT = 5,  // another rank's result is taken in
  TW_STAMP_TAIL = 6,     // a row's residual and norm
  TW_STAMP_END = 7,      // the rank's last CTA ends the operation
  TW_STAMP_WAIT = 16,    // + TW_WAIT_*: for other ranks
  TW_STAMP_CAME = 32     // in a wait: when a word of `peer` came; 0: it was there at once
};
#define TW_STAMP_ALL 0xffff       // in place of a peer: all, or none in particular
#define TW_STAMP_SAME 0xffffffff  // in place of a tile: that of the stamp before

// `TwWaitRecord::state`.
enum { TW_RECORD_EMPTY = 0, TW_RECORD_CLAIMED = 1, TW_RECORD_COMPLETE = 2 };

// Values of the abort word.
enum { TW_ABORT_NONE = 0, TW_ABORT_WAIT = 1, TW_ABORT_DISAGREED = 2, TW_ABORT_HOST = 3 };

// What one operation is: equal on every rank, or the hello's hashes differ.
typedef struct TwDescriptor {
  uint32_t op, algorithm, dtype, wire;
  uint32_t tile;      // tile configuration, TW_TILE_PAIRS, TW_TILE_HOPPER, TW_TILE_REDUCER
  uint32_t grid;      // CTAs, equal on every rank; of a one-shot those of one item a block, whatever a rank's splits of K
  uint32_t has_bias;  // added once, after the sum
  uint32_t world;
  uint64_t m;         // global rows; element count of a flat all-reduce
  uint64_t n;         // global columns; 0 where ranks may differ (all_gather_gemm)
  uint64_t k;         // 0 where ranks may differ (row-parallel: K is split)
  uint64_t panel;     // how much of M goes through one staging half
  uint32_t tail;      // with one, `n` is the columns of a row also where m counts elements
  uint32_t tail_eps;  // an f32's bits
  uint32_t epilogue, axis;
} TwDescriptor;

// A rank's first unsatisfied wait. Written once in the group's life, by whoever claims `state`: the
// failure poisons the group, so it is never reset.
typedef struct TwWaitRecord {
  uint32_t state, kind, cause, op;
  uint32_t rank, peer, tile, pad_;
  uint64_t epoch, expected, seen, waited_ns;
} TwWaitRecord;

// A peer's hello: written by that peer, `hash` first, then `epoch` with release.
typedef struct TwHello {
  uint64_t epoch, hash;
} TwHello;

// Paths of an operation, `TwParams::path`, as the host counts them.
enum { TW_PATH_FUSED = 0, TW_PATH_UNFUSED = 1, TW_PATHS = 2 };

// What a rank's kernels tell the host, in memory of the host: every word is written whole, by the last CTA of an operation (the
// abort word by whoever notices first). Of operations that have ended; nothing orders these words among each other.
typedef struct TwReport {
  uint64_t abort;                            // why this rank gave up, TW_ABORT_*; TW_ABORT_NONE: it has not
  uint64_t pad_[15];
  uint64_t operations[TW_PATHS];             // that ended well, by path
  uint64_t bytes_sent[TW_PATHS];             // payload bytes that left this rank's memory over the links, whoever moved them
  uint64_t signals_sent;                     // words to peers: hellos (two each), tile signals, credits
  uint64_t pad1_[11];
  uint64_t longest_wait_ns[TW_MAX_RANKS];    // for a word of this peer that came
} TwReport;

// Of one role of one CTA, written as it begins and as it ends; zero before. Its stamps lie elsewhere.
typedef struct TwTrack {
  uint64_t stamps;  // how many there were, of which the first `TwParams::stamp_capacity` are kept
  uint64_t began_ns, ended_ns;
} TwTrack;

typedef struct TwStamp {
  uint64_t what;  // TW_STAMP_*, from bit 16 on the peer, from bit 32 on the tile
  uint64_t ns;    // `mx::time_ns`
} TwStamp;

// The start of every rank's heap. Words that peers write stand on cache lines of their own.
typedef struct TwControl {
  uint64_t epoch;            // number of the next operation, from 1; read at CTA entry, advanced by the last CTA out
  uint64_t round;            // number of the next staging round, from 1; an operation takes one round per panel
  uint32_t ctas_done;        // CTAs that left the running operation
  uint32_t panel_done[2];    // CTAs that finished the panel of each round parity
  uint32_t pad0_;
  uint64_t epoch_started, epoch_finished;
  uint64_t pad6_[2];
  uint64_t started_ns;       // `mx::time_ns` at the begin of the running or last operation's first CTA,
  uint64_t finished_ns;      // and at the end of its last: for measurements, nothing waits for them
  uint32_t met_ctas, pad5_;  // CTAs that have arrived where those of the running operation meet
  uint64_t met_epoch;        // the last operation whose CTAs have met
  uint64_t pad1_[4];
  uint64_t abort;            // written by peers and the host
  uint64_t pad2_[15];
  TwDescriptor current;      // of the running or last operation
  uint64_t current_hash;
  uint64_t pad3_[5];
  TwWaitRecord record;
  uint64_t pad4_[8];
  TwHello hello[2][TW_MAX_RANKS];    // [epoch parity][peer]
  uint64_t credit[2][TW_MAX_RANKS];  // [round parity][peer]: the last round of that parity that the peer has consumed
  TwReport totals;                   // since the group began, counted here; the host's copy is `TwGroup::report`
} TwControl;

// Where everything lies. Offsets are into the heap and equal on every rank; each `*_half` is the stride between parities.
typedef struct TwGroup {
  uint64_t heap[TW_MAX_RANKS];  // device address of every rank's heap, as this rank maps it
  uint64_t signals, signals_half;
  uint64_t packets, packets_half;
  uint64_t staging, staging_half;
  uint64_t multicast;           // one address for all heaps, for multimem alone; 0: none
  uint64_t report;              // this rank's TwReport, in memory of the host; 0: none
  uint64_t deadline_ns;
  uint32_t rank, world;
} TwGroup;

// What TMA needs to know of a matrix, encoded by the driver for its machine (on CUDA a CUtensorMap); all zero: absent.
typedef struct TwTensorMap {
#ifdef __cplusplus
  alignas(64)
#else
  _Alignas(64)
#endif
      uint64_t opaque[16];
} TwTensorMap;

// A matrix in memory: its first element's address, 0 where it is absent, and its leading dimension in elements.
typedef struct TwMat {
  uint64_t at, ld;
} TwMat;

// What a kernel of a rank alone works on; element types but those of f32 matrices are `TwDescriptor::dtype`.
typedef struct TwLocal {
  TwMat mat[TW_LOCAL_MATS];
  int64_t first;             // the vocabulary's first row, or column, of this part
  int64_t vocabulary;        // of all parts
  int64_t ignore;            // the target whose rows have no loss, where `ignores`
  uint32_t what;
  uint32_t rows, cols;       // of what is walked over
  uint32_t row_threads;      // threads of a CTA that share a row, a power of two
  uint32_t value;            // an f32's bits: eps, the scale of scores, what fills
  uint32_t centred;          // LayerNorm's mean; without it RMSNorm
  uint32_t accumulate;       // results are added to what is there
  uint32_t heads, kv_heads, head_size;
  uint32_t seq;              // rows of a sequence
  uint32_t parts;            // of a loss: the ranks whose stats there are
  uint32_t ignores;
  uint32_t vectors;          // rows are whole octets, which 16-byte accesses can address
  uint32_t ids, pad_;        // of an embedding: rows of the table, backward ids
} TwLocal;

// One launch of any kernel. Leading dimensions are in elements. Address 0: absent.
typedef struct TwParams {
  TwTensorMap map_x;         // [rows of x][k], boxes of a tile's rows x 64 of K
  TwTensorMap map_weight;    // [n][k], boxes of half a tile's columns x 64 of K
  TwTensorMap map_gathered;  // AG+GEMM: this rank's staging as [half][source][row][k], boxes as of x
  TwTensorMap map_out;       // [rows of out][n], boxes of 64 rows x 128 bytes; where out_boxes
  TwGroup group;
  TwDescriptor desc;
  uint64_t hash;             // of `desc`
  uint64_t x, weight, bias, addend, out;
  uint64_t x_ld, weight_ld, addend_ld, out_ld;
  uint32_t m, n, k;          // this rank's GEMM (k: its own share; n: its own for all_gather_gemm); collectives: rows, columns
                             // (all-gather: k = n; side by side: all ranks' rows, one below the other, and the columns of the widest)
  uint32_t chunk;            // ceil(rows / world): rank r has rows [r * chunk, min((r + 1) * chunk, rows))
  uint32_t panels;           // staging rounds of this launch, at least 1
  uint32_t panel;            // GEMM+RS, RS, AG+GEMM, AG: rows per owner and round; AR: waves per round
  uint32_t window;           // AR: waves pushed before the first is reduced
  uint32_t comm_ctas;        // AG+GEMM: CTAs that only push
  uint32_t reducers;         // GEMM+AR on Hopper: CTAs at the grid's end, whole clusters, that only reduce; 0: all reduce
  // Counts that follow from the above. The host computes them once, for staging's size and for the kernels alike.
  uint32_t tiles, tiles_n;   // blocks of the output; blocks across it
  uint32_t waves;            // AR: all of them
  uint32_t slots;            // per round: RS: blocks of an owner; AR: partials of a source; AG: row blocks of a source
  uint32_t wave_slots;       // AR: of `slots`, those of one wave
  uint32_t result_slots;     // AR: results of a round
  uint32_t gather_rows;      // AG: rows of a row block; equal on every rank, at most TW_GATHER_ROWS
  uint32_t piece;            // AG+GEMM, AG: of a row block, the rows that one signal stands for
  uint32_t cluster;          // row-neighbouring blocks that the tile order keeps together: 1, or 2 for CTAs that share weights
  uint32_t out_boxes;        // `out` may be written through map_out
  uint32_t splits;           // of K: a block is the sum of so many partial products, at least 1
  uint64_t split_space;      // splits > 1: TW_SPLIT_BLOCKS counters (u32 in 8 bytes, zero at rest), then f32 partial products
                             // of every block; 0: each CTA computes all splits of its blocks
  // The tail: `out` as [tail_rows][tail_cols], whatever the all-reduce takes it for; the residual is updated in place. Of a residual
  // alone, which is only read, no more than that is set: it has the rows of `out`.
  uint64_t residual, residual_ld, gamma;
  uint32_t tail_rows, tail_cols;
  uint32_t path;             // TW_PATH_*: of what this operation is counted
  // Where roles leave their stamps: TwTrack[stamp_ctas][TW_ROLES], then TwStamp[stamp_ctas][TW_ROLES][stamp_capacity]; 0: nowhere.
  uint32_t stamp_ctas;       // at least the grid
  uint32_t stamp_capacity;
  uint32_t in_turn;          // AG+GEMM, AG: rows go to one peer after the other, not to all at once
  uint64_t stamps;
  uint32_t layout;           // TW_NT..TW_TN; other than TW_NT of the portable mainloop alone
  uint32_t columns;          // AG side by side: of all ranks together, rank r has [r * k, min((r + 1) * k, columns)); else 0
  uint64_t saved, saved_ld;  // of an epilogue: where the product itself goes
  TwLocal local;             // of a kernel of a rank alone, which reads nothing else but `desc.dtype`
} TwParams;

// What a launch of `probe` found, in the memory of the device that ran it; zero before.
typedef struct TwProbeResult {
  uint64_t wrong;      // CHECK, SUM, ECHO: vectors of 16 bytes that are not as they should be; ATOMICS: values that came twice or fell
  uint64_t olds;       // ATOMICS: the sum of what the word held before each of this launch's additions
  uint64_t seen;       // CHECK, SUM: vectors that were looked at; ECHO: words that came
  uint64_t started_ns, finished_ns;  // ECHO, CHASE: after the first round, and after the last
  uint32_t first, pad_;  // CHECK, SUM: 1 + the index of the first wrong vector
  uint64_t pad2_[2];
} TwProbeResult;

#ifdef __cplusplus
#include <stddef.h>
static_assert(sizeof(TwProbeResult) == 64, "TwProbeResult");
static_assert(sizeof(TwDescriptor) == 80, "TwDescriptor");
static_assert(sizeof(TwWaitRecord) == 64, "TwWaitRecord");
static_assert(offsetof(TwControl, abort) == TW_CACHE_LINE && offsetof(TwControl, current) == 2 * TW_CACHE_LINE, "TwControl");
static_assert(offsetof(TwControl, record) == 3 * TW_CACHE_LINE && offsetof(TwControl, hello) == 4 * TW_CACHE_LINE, "TwControl");
static_assert(sizeof(TwReport) == 3 * TW_CACHE_LINE, "TwReport");
static_assert(sizeof(TwControl) == 4 * TW_CACHE_LINE + 2 * 16 * 16 + 2 * 16 * 8 + sizeof(TwReport), "TwControl");
static_assert(sizeof(TwTrack) == 24 && sizeof(TwStamp) == 16, "TwTrack");
static_assert(sizeof(TwTensorMap) == 128 && alignof(TwTensorMap) == 64, "TwTensorMap");
static_assert(sizeof(TwMat) == 16 && sizeof(TwLocal) == 280, "TwLocal");
static_assert(sizeof(TwParams) < 4096, "kernel parameters must stay under 4 KB");
#endif
