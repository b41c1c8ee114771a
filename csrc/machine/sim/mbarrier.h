// mbarriers. Their state is the executor's (`src/driver/sim/mbarrier.rs`): the 8 bytes in shared memory are only a name.
#pragma once
#include "calls.h"

namespace mx {
TW_MACHINE void mbar_init(saddr bar, u32 count) {
  note(self(), Call::MbarInit, bar, count);
  tw_sim_mbar_init(self(), bar, count);
}
TW_MACHINE void mbar_init_fence() { tw_sim_mbar_init_fence(self()); }
TW_MACHINE void mbar_arrive(saddr bar, Site s) {
  note(self(), Call::MbarArrive, bar, 99);
  tw_sim_mbar_arrive(self(), bar, u32(s));
}
TW_MACHINE void mbar_arrive_at(saddr bar, u32 cta, Site s) {
  note(self(), Call::MbarArrive, bar, cta);
  tw_sim_mbar_arrive_at(self(), bar, cta, u32(s));
}
TW_MACHINE void mbar_arrive_expect_tx(saddr bar, u32 bytes, Site s) {
  note(self(), Call::MbarExpect, bar, bytes);
  tw_sim_mbar_arrive_expect_tx(self(), bar, bytes, u32(s));
}
TW_MACHINE void mbar_wait(saddr bar, u32 parity, Site s) {
  note(self(), Call::MbarWait, bar, parity);
  tw_sim_mbar_wait(self(), bar, parity, u32(s));
}
}  // namespace mx
