// The schedules, callable from Rust: tests hold them to their promises on the host.
#include "schedule/gather.h"
#include "schedule/scatter.h"
#include "schedule/split.h"
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

void tw_schedule_split(uint32_t k, uint32_t splits, uint32_t s, uint32_t* begin, uint32_t* end) {
  const tw::Span part = tw::split_of(k, splits, s);
  *begin = part.begin;
  *end = part.end;
}

Position tw_schedule_scatter_at(const tw::ScatterOrder* order, uint32_t q, uint32_t f) {
  const tw::ScatterTile t = order->at(q, f);
  return flat(t.owner, t.slot, 0, t.block);
}
Position tw_schedule_waves_at(const tw::WaveOrder* order, uint32_t wave, uint32_t cta) {
  const tw::WaveTile t = order->at(wave, cta);
  return flat(t.owner, t.slot, t.result_slot, t.block);
}
uint32_t tw_schedule_waves_group(const tw::WaveOrder* order, uint32_t wave, uint32_t number, uint32_t count) {
  return tw::Reducer{number, count}.first(*order, wave);
}
Position tw_schedule_waves_of_owner(const tw::WaveOrder* order, uint32_t wave, uint32_t group, uint32_t owner) {
  const tw::WaveTile t = order->of_owner(wave, group, owner);
  return flat(t.owner, t.slot, t.result_slot, t.block);
}
Position tw_schedule_gather_piece(const tw::GatherOrder* order, uint32_t q, uint32_t source, uint32_t b, uint32_t i) {
  const tw::GatherTile t = order->piece_of(q, source, b, i);
  return flat(t.source, t.row_block, t.local_row, t.block);
}
Position tw_schedule_gather_at(const tw::GatherOrder* order, uint32_t q, uint32_t f) {
  const tw::GatherTile t = order->at(q, f);
  return flat(t.source, t.row_block, t.local_row, t.block);
}
}
