// Simulated time: a little a scheduling step, and a jump to the next `pause` when nothing can run.
#pragma once
#include "calls.h"

namespace mx {
TW_MACHINE u64 time_ns() { return tw_sim_time(self()); }
TW_MACHINE void pause(u64 until_ns) { tw_sim_pause(self(), until_ns); }
}  // namespace mx
