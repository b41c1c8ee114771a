// The timed machine: the functions of `docs/machine.md` as the time that they take on a described GPU. One fiber a warp; no
// arithmetic, no data. `docs/clock.md` tells the mechanism and what stands for what.
#pragma once
#include "arith.h"
#include "bulk.h"
#include "identity.h"
#include "memory.h"
#include "sync.h"
#include "tensor.h"
#include "types.h"
