// Names of the places in the protocol and the mainloops where order is made. A machine function that orders takes the
// name of its place; the GPU ignores it, the simulated machine uses it in reports, and tests tell it to ignore one place.
#pragma once
#include <stdint.h>

namespace mx {
enum class Site : uint32_t {
  None = 0,
  // protocol
  HelloSend,       // release: publishes the hash word of the hello
  HelloPoll,       // relaxed poll of a peer's hello
  HelloAcquire,    // acquire: pairs with HelloSend
  AgreeBarrier,    // CTA barrier: after the HelloAcquires of P threads, before every thread's pushes into a half used before
  TileBarrier,     // CTA barrier: every thread's push of a tile, before one thread's TileRelease
  TileRelease,     // release: publishes a pushed tile (partial, result or row block)
  TilePoll,        // relaxed poll of a tile's signal
  TileAcquire,     // acquire: pairs with TileRelease
  TileAcquired,    // CTA barrier: after one thread's TileAcquire, before every thread's reads
  PacketPoll,      // relaxed poll of a packet: its data is its own flag
  CreditArrive,    // acq_rel counter of the CTAs that consumed a panel
  CreditRelease,   // release: tells a peer that a staging half is consumed
  CreditPoll,      // relaxed poll of a peer's credit
  CreditAcquire,   // acquire: pairs with CreditRelease
  CreditBarrier,   // CTA barrier: after the CreditAcquires of P threads, before every thread's pushes
  RetireBarrier,   // CTA barrier: after every thread's reads of a round, before one thread's CreditArrive
  LastArrive,      // acq_rel counter of the CTAs that left
  LastBarrier,     // CTA barrier: after every thread's reads, before one thread's LastArrive
  EndBarrier,      // CTA barrier: after one thread's LastArrive, before all threads of the last CTA retire the operation
  MeetBarrier,     // CTA barrier: after every thread's writes, before one thread's MeetArrive
  MeetArrive,      // acq_rel counter of the rank's CTAs that meet
  MeetRelease,     // release: the last to arrive tells the others
  MeetPoll,        // relaxed poll of the last operation whose CTAs have met
  MeetAcquire,     // acquire: pairs with MeetRelease
  MeetArrived,     // CTA barrier: after one thread's MeetAcquire, before every thread's reads
  TailSums,        // CTA barrier: every warp's sums of squares are written, before every thread's reads of all
  SumFence,        // alias fence: partials acquired, before they are read through the switch
  ResultFence,     // alias fence: a result stored through the switch, before its TileRelease
  // mainloops
  CopyWait,        // cp.async group wait
  StageBarrier,    // CTA barrier: a stage is filled for all threads, and the one before it read by all
  MmaWait,         // the warp's ldmatrix and mma have read their operands
  SplitBarrier,    // CTA barrier: after every thread's writes of a split, before one thread's SplitArrive
  SplitArrive,     // acq_rel counter of the CTAs that have written their split of a block
  SplitArrived,    // CTA barrier: after one thread's SplitArrive, before every thread's reads of all splits
  // Hopper's mainloop: roles of one CTA, or of a cluster's, and the asynchronous units between them
  SetupBarrier,    // CTA barrier: mbarriers are initialised
  ClusterStart,    // cluster barrier: mbarriers of all its CTAs are initialised
  ClusterEnd,      // cluster barrier: no CTA leaves while another may write to it
  StageFull,       // mbarrier: the loader's bytes of a stage are there
  StageEmpty,      // mbarrier: math has read a stage
  WgmmaWait,       // wgmma.wait_group: the warpgroup's wgmma have read their operands and written their accumulators
  ChunkFence,      // proxy fence: a thread's part of an output chunk, before the bulk copy that ChunkFull leads to
  ChunkFull,       // mbarrier: all threads' parts of an output chunk are written and fenced
  ChunkRead,       // bulk wait (.read): a bulk copy has read its chunk, which ChunkEmpty gives back
  ChunkEmpty,      // mbarrier: an output chunk may be overwritten
  BulkWait,        // bulk wait: pushed chunks have been written, before TileRelease
  RowsFence,       // proxy fence: gathered rows, written by ordinary stores and acquired, before TMA reads them
  RoundRead,       // mbarrier: all of a round's gathered rows have been read
  // kernels of a rank alone
  LocalSums,       // CTA barrier: the parts of sums are written, before every thread's reads of all of them
  LocalChunk,      // CTA barrier: a chunk of operands is stored for all threads, and the one before it read by all
  LocalIds,        // CTA barrier: which of a chunk's ids are wanted is written, before one warp lists them
  LocalList,       // CTA barrier: the list is written, before every thread's reads; they are done, before it is written over
  Count
};
}  // namespace mx
