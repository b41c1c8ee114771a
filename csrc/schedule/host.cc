// The schedules, callable from Rust: tests hold them to their promises on the host, and Rust's own sizes to theirs.
#include "schedule/gather.h"
#include "schedule/scatter.h"
#include "schedule/waves.h"

namespace {
// One position of any order, flattened: who, where in staging, which block.
struct Position {
  uint32_t who, slot, extra, row, col, rows, cols;
};
Position flat(uint32_t who, uint32_t slot, uint32_t extra, const tw::Block& b) {
  return {who, slot, extra, b.row, b.col, b.rows, b.cols};
}
}  // namespace

extern "C" {
void tw_schedule_chunk(uint32_t rows, uint32_t chunk, uint32_t rank, uint32_t* begin, uint32_t* end) {
  const tw::Span s = tw::chunk_of(rows, chunk, rank);
  *begin = s.begin;
  *end = s.end;
}

void tw_schedule_scatter(const tw::ScatterOrder* order, uint32_t* slots, uint32_t* positions) {
  *slots = order->slots();
  *positions = order->positions();
}
Position tw_schedule_scatter_at(const tw::ScatterOrder* order, uint32_t q, uint32_t f) {
  const tw::ScatterTile t = order->at(q, f);
  return flat(t.owner, t.slot, 0, t.block);
}

void tw_schedule_waves(const tw::WaveOrder* order, uint32_t* waves, uint32_t* slots, uint32_t* result_slots) {
  *waves = order->waves();
  *slots = order->slots();
  *result_slots = order->result_slots();
}
Position tw_schedule_waves_at(const tw::WaveOrder* order, uint32_t wave, uint32_t cta) {
  const tw::WaveTile t = order->at(wave, cta);
  return flat(t.owner, t.slot, t.result_slot, t.block);
}

void tw_schedule_gather(const tw::GatherOrder* order, uint32_t* row_blocks, uint32_t* positions) {
  *row_blocks = order->row_blocks();
  *positions = order->positions();
}
Position tw_schedule_gather_at(const tw::GatherOrder* order, uint32_t q, uint32_t f) {
  const tw::GatherTile t = order->at(q, f);
  return flat(t.source, t.row_block, t.local_row, t.block);
}
}
