// The simulated machine's own kernels: what its tests and its benchmark run. X(name, threads, CTAs per SM).
#pragma once
#define TW_SELFTEST_ENTRIES(X)    \
  X(selftest_gemm_bf16, 128, 4)   \
  X(selftest_gemm_f16, 128, 4)    \
  X(selftest_message, 128, 4)     \
  X(selftest_packets, 64, 4)      \
  X(selftest_counter, 64, 8)      \
  X(selftest_wait, 64, 8)         \
  X(selftest_warp, 64, 4)         \
  X(selftest_fill, 128, 8)        \
  X(selftest_read, 64, 4)         \
  X(selftest_shared, 64, 4)       \
  X(selftest_barrier, 64, 4)      \
  X(selftest_stream, 32, 8)       \
  X(selftest_wgmma_bf16, 128, 1)  \
  X(selftest_wgmma_f16, 128, 1)   \
  X(selftest_wgmma_gemm, 288, 1)  \
  X(selftest_wgmma_case, 256, 1)  \
  X(selftest_wgmma_tma, 160, 1)   \
  X(selftest_stmatrix, 64, 1)     \
  X(selftest_registers, 512, 1)   \
  X(selftest_pipeline, 128, 1)    \
  X(selftest_gather, 96, 1)       \
  X(selftest_mbarrier, 64, 1)     \
  X(selftest_copies, 64, 1)       \
  X(selftest_cluster, 64, 1)      \
  X(selftest_switch, 64, 4)       \
  X(selftest_switch_at, 32, 8)
