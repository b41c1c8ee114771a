// Every entry point: X(name, threads, CTAs per SM it is compiled for). The simulator's table and the tests read this list.
#pragma once
#include "abi.h"

#define TW_ENTRIES_16(X, T)                                                              \
  X(gemm_##T##_64, TW_TILE_64_THREADS, 2) X(gemm_##T##_128, TW_TILE_128_THREADS, 1)       \
  X(gemm_rs_##T##_64, TW_TILE_64_THREADS, 2) X(gemm_rs_##T##_128, TW_TILE_128_THREADS, 1) \
  X(gemm_ar_##T##_64, TW_TILE_64_THREADS, 2) X(gemm_ar_##T##_128, TW_TILE_128_THREADS, 1) \
  X(ag_gemm_##T##_64, TW_TILE_64_THREADS, 2) X(ag_gemm_##T##_128, TW_TILE_128_THREADS, 1) \
  TW_ENTRIES_256(X, T)                                                                    \
  X(gemm_ar1_##T##_64, TW_TILE_64_THREADS, 2)

#define TW_ENTRIES_256(X, T)                                                                                       \
  X(gemm_rs_##T##_256, TW_TILE_256_THREADS, 1) X(gemm_ar_##T##_256, TW_TILE_256_THREADS, 1)                         \
  TW_ENTRIES_SM90(X, T##_128_sm90) TW_ENTRIES_SM90(X, T##_256_sm90)                                                 \
  X(gemm_##T##_64_sm90, TW_SM90_THREADS, 1) X(gemm_ar1_##T##_64_sm90, TW_SM90_THREADS, 1)

// Only in sm_90a's machine code and on the simulated node.
#define TW_ENTRIES_SM90(X, suffix)                                                              \
  X(gemm_##suffix, TW_SM90_THREADS, 1) X(gemm_rs_##suffix, TW_SM90_THREADS, 1)             \
  X(gemm_ar_##suffix, TW_SM90_THREADS, 1) X(ag_gemm_##suffix, TW_SM90_THREADS, 1)

#define TW_ENTRIES_F32(X)                                                         \
  X(gemm_f32, TW_TILE_F32_THREADS, 2) X(gemm_rs_f32, TW_TILE_F32_THREADS, 2)      \
  X(gemm_ar_f32, TW_TILE_F32_THREADS, 2) X(ag_gemm_f32, TW_TILE_F32_THREADS, 2)   \
  X(gemm_ar1_f32, TW_TILE_F32_THREADS, 2)

// Plain collectives: each for all types, by `TwDescriptor::dtype`.
#define TW_ENTRIES_PLAIN(X)                                                                 \
  X(reduce_scatter, TW_TILE_MEMORY_THREADS, 2) X(all_reduce, TW_TILE_MEMORY_THREADS, 2)     \
  X(all_reduce1, TW_TILE_MEMORY_THREADS, 2) X(all_gather, TW_TILE_MEMORY_THREADS, 2)

// Of a rank alone: each for all types, all of them with TW_LOCAL_THREADS.
#define TW_ENTRIES_LOCAL(X)                                                                       \
  X(normalise, TW_LOCAL_THREADS, 2) X(activate, TW_LOCAL_THREADS, 2) X(attention, TW_LOCAL_THREADS, 1) \
  X(embedding, TW_LOCAL_THREADS, 2) X(cross_entropy, TW_LOCAL_THREADS, 2) X(move_matrix, TW_LOCAL_THREADS, 2)

#define TW_ENTRIES(X)                                                                             \
  TW_ENTRIES_16(X, bf16) TW_ENTRIES_16(X, f16) TW_ENTRIES_F32(X) TW_ENTRIES_PLAIN(X)              \
  TW_ENTRIES_LOCAL(X)                                                                             \
  X(probe, TW_PROBE_THREADS, 2) X(conformance, 128, 1)
