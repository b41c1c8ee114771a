// The real machine: each function is one PTX instruction, one special register, or nothing. `docs/machine.md` is the
// contract; `csrc/machine/sim` holds the same functions on the simulated SM. Lowest target: sm_80; what the contract
// lists under Hopper needs sm_90a, and may be named only where `kHopper` is true; what it lists under Multicast needs sm_90
// and `kMulticast`.
//
// Every instruction that reads or writes memory, or orders it, is `asm volatile` with a "memory" clobber: the compiler
// keeps them in program order, which is all the PTX memory model asks of it. Instructions that are functions of
// registers alone are plain `asm`, free to move and to disappear.
#pragma once
#include "arith.h"
#include "async.h"
#include "bulk.h"
#include "clock.h"
#include "cluster.h"
#include "global.h"
#include "identity.h"
#include "mbarrier.h"
#include "mma.h"
#include "multimem.h"
#include "packet.h"
#include "shared.h"
#include "sync.h"
#include "tma.h"
#include "types.h"
#include "wgmma.h"
