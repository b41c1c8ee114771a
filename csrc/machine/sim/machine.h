// The simulated machine: the functions of `docs/machine.md` on simulated SMs. Inline functions work on the fiber's
// `TwSelf` and on shadow memory; `calls.h` lists where they enter the executor. `docs/simulator.md` tells the mechanism.
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
#include "types.h"
#include "wgmma.h"
