// How partials and results travel, by `TwDescriptor::algorithm`, and so in the hello's hash:
//
//                a rank's partial of a block lies    the owner                    the result lies
//     push       in the owner's heap, by source      loads its own heap           in every collector's heap, stored by the owner
//     pull       in its own heap, by owner           loads every rank's heap      in the owner's heap, where collectors load it
//     in-switch  in its own heap, by owner           loads through the switch,    in every rank's heap, stored through the
//                                                    which adds                   switch
//
// Signals are the same: of a partial to its owner, of a result to every collector. By owner a kept partial has one offset
// on all ranks, as a multicast address needs it; both tables are as large.
//
// What may be overwritten when: of push, docs/protocol.md, "Why two halves suffice". A half that is pulled from is read by
// peers and written by its own rank, but that argument holds all the same, for it never asks which rank's memory it is: who
// writes into a half in round r, into its own heap or a peer's, knows that *every* rank has consumed round r - 2, by all
// ranks' hellos or credits; and a rank gives either only when all of its reads of the round are done, wherever it read. What
// a rank alone can tell less of is when its own half is dead: others may still read there when it has consumed the
// round itself. So a half that was pulled from is not given up (`mx::discard`): who overwrites it next knows its readers.
// In-switch each rank collects, of every other owner, the results to which its partials went, so those have been read.
#pragma once
#include "protocol/address.h"

namespace tw {
TW_DEV bool pulls(const TwParams& p) { return p.desc.algorithm & TW_PULL; }
TW_DEV bool in_switch([[maybe_unused]] const TwParams& p) {
  if constexpr (mx::kMulticast) return p.desc.algorithm & TW_IN_SWITCH;
  return false;
}
// Partials stay in the heap of the rank that computed them.
TW_DEV bool keeps(const TwParams& p) { return p.desc.algorithm & (TW_PULL | TW_IN_SWITCH); }

// In place of a rank: the memory of all, through the switch.
constexpr uint32_t kSwitch = ~0u;
TW_DEV gaddr heap_or_switch(const TwParams& p, uint32_t rank) { return rank == kSwitch ? p.group.multicast : heap_of(p, rank); }
}  // namespace tw
