// Element by element: the octets of a matrix, dealt to threads. `row_threads` neighbours share a row, so that narrow rows leave
// no thread idle and wide ones are read in whole lines.
#pragma once
#include "kernels/local/access.h"

namespace tw {
// f(row, columns)
template <class F>
TW_DEV void for_each_octet(const TwLocal& l, const F& f) {
  const uint32_t rows = TW_LOCAL_THREADS / l.row_threads, step = l.row_threads * 8;
  const uint32_t steps = (l.cols + step - 1) / step, items = (l.rows + rows - 1) / rows * steps;
  const uint32_t of_row = mx::thread() / l.row_threads, of_step = mx::thread() % l.row_threads * 8;
  TW_NO_UNROLL
  for (uint32_t item = mx::block(); item < items; item += mx::grid()) {
    const uint32_t row = item / steps * rows + of_row, col = item % steps * step + of_step;
    if (row < l.rows && col < l.cols) f(row, Columns{col, 2, l.cols});
  }
}
}  // namespace tw
