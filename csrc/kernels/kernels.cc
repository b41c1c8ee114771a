// The one translation unit of all kernels, for nvcc and for the host's compiler.
#include "kernels/all_gather.h"
#include "kernels/all_reduce.h"
#include "kernels/all_reduce_one_shot.h"
#include "kernels/by_type.h"
#include "kernels/conformance.h"
#include "kernels/gemm.h"
#include "kernels/local/activate.h"
#include "kernels/local/attention.h"
#include "kernels/local/attention_backward.h"
#include "kernels/local/cross_entropy.h"
#include "kernels/local/embedding.h"
#include "kernels/local/embedding_backward.h"
#include "kernels/local/move.h"
#include "kernels/local/norm.h"
#include "kernels/local/norm_backward.h"
#include "kernels/probe.h"
#include "kernels/reduce_scatter.h"
#include "kernels/sm90_gather.h"
#include "kernels/sm90_gemm.h"
#include "kernels/sm90_reduce.h"
#include "kernels/sm90_slim.h"

namespace tw {
//                                     M    N   warps  stages
template <class T>
using Tile64 = MmaTile<T, TW_TILE_64_M, TW_TILE_64_N, 2, 2, 3>;
template <class T>
using Tile128 = MmaTile<T, TW_TILE_128_M, TW_TILE_128_N, 2, 4, 3>;
template <class T>
using Tile256 = MmaTile<T, TW_TILE_256_M, TW_TILE_256_N, 2, 4, 3>;
template <class T>
using Sm90Slim = Sm90Tile<T, TW_TILE_SLIM_M, TW_TILE_SLIM_N, 8>;
template <class T>
using Sm90Tile128 = Sm90Tile<T, TW_TILE_128_M, TW_TILE_128_N, 6>;
template <class T>
using Sm90Tile256 = Sm90Tile<T, TW_TILE_256_M, TW_TILE_256_N, 4>;

template <class Tile>
constexpr bool is(uint32_t m, uint32_t n, uint32_t threads, uint32_t shared) {
  return Tile::kM == m && Tile::kN == n && Tile::kThreads == threads && Tile::kShared == shared;
}
static_assert(is<Tile64<mx::bf16>>(TW_TILE_64_M, TW_TILE_64_N, TW_TILE_64_THREADS, TW_TILE_64_SHARED), "abi.h");
static_assert(is<Tile128<mx::bf16>>(TW_TILE_128_M, TW_TILE_128_N, TW_TILE_128_THREADS, TW_TILE_128_SHARED), "abi.h");
static_assert(is<Tile256<mx::bf16>>(TW_TILE_256_M, TW_TILE_256_N, TW_TILE_256_THREADS, TW_TILE_256_SHARED), "abi.h");
static_assert(kSm90Threads == TW_SM90_THREADS && Sm90Slim<mx::bf16>::kShared == TW_SM90_SLIM_SHARED, "abi.h");
static_assert(Sm90Tile128<mx::bf16>::kShared == TW_SM90_128_SHARED && Sm90Tile256<mx::bf16>::kShared == TW_SM90_256_SHARED, "abi.h");
static_assert(is<FfmaTile>(TW_TILE_F32_M, TW_TILE_F32_N, TW_TILE_F32_THREADS, TW_TILE_F32_SHARED), "abi.h");
static_assert(is<MemoryTile<float>>(TW_TILE_MEMORY_M, TW_TILE_MEMORY_N, TW_TILE_MEMORY_THREADS, TW_TILE_MEMORY_SHARED), "abi.h");

template <class Source>
TW_DEV void reduce_scatter(const TwParams& p) {
  ReduceScatter<Source>(p).run();
}
template <class Source>
TW_DEV void all_reduce(const TwParams& p) {
  AllReduce<Source>(p).run();
}
template <class Consumer>
TW_DEV void all_gather(const TwParams& p) {
  AllGather<Consumer>(p).run();
}
}  // namespace tw

#define TW_GEMM_KERNELS(suffix, Tile, ctas)                                                                \
  TW_KERNEL(gemm_##suffix, Tile::kThreads, ctas) { tw::gemm<tw::GemmSource<Tile, true>>(p); }              \
  TW_KERNEL(gemm_rs_##suffix, Tile::kThreads, ctas) { tw::reduce_scatter<tw::GemmSource<Tile>>(p); }       \
  TW_KERNEL(gemm_ar_##suffix, Tile::kThreads, ctas) { tw::all_reduce<tw::GemmSource<Tile>>(p); }           \
  TW_KERNEL(ag_gemm_##suffix, Tile::kThreads, ctas) { tw::all_gather<tw::GemmConsumer<Tile>>(p); }
#define TW_ONE_SHOT_KERNEL(suffix, Tile) \
  TW_KERNEL(gemm_ar1_##suffix, Tile::kThreads, 2) { tw::one_shot<tw::GemmSource<Tile>>(p); }
#define TW_PLAIN_KERNEL(name) TW_KERNEL(name, TW_TILE_MEMORY_THREADS, 2)

TW_GEMM_KERNELS(bf16_64, tw::Tile64<mx::bf16>, 2)
TW_GEMM_KERNELS(bf16_128, tw::Tile128<mx::bf16>, 1)
TW_GEMM_KERNELS(f16_64, tw::Tile64<mx::f16>, 2)
TW_GEMM_KERNELS(f16_128, tw::Tile128<mx::f16>, 1)
TW_GEMM_KERNELS(f32, tw::FfmaTile, 2)
TW_ONE_SHOT_KERNEL(bf16_64, tw::Tile64<mx::bf16>)
TW_ONE_SHOT_KERNEL(f16_64, tw::Tile64<mx::f16>)
TW_ONE_SHOT_KERNEL(f32, tw::FfmaTile)
TW_PLAIN_KERNEL(reduce_scatter) { tw::by_type(p, [&](auto type) { tw::reduce_scatter<tw::MemorySource<decltype(type), false>>(p); }); }
TW_PLAIN_KERNEL(all_reduce) { tw::by_type(p, [&](auto type) { tw::all_reduce<tw::MemorySource<decltype(type), true>>(p); }); }
TW_PLAIN_KERNEL(all_reduce1) { tw::by_type(p, [&](auto type) { tw::one_shot<tw::MemorySource<decltype(type), true>>(p); }); }
TW_PLAIN_KERNEL(all_gather) { tw::by_size(p, [&](auto type) { tw::all_gather<tw::CopyConsumer<decltype(type)>>(p); }); }

#define TW_LOCAL_KERNEL(name) TW_KERNEL(name, TW_LOCAL_THREADS, 2)
TW_LOCAL_KERNEL(normalise) { tw::by_access(p, [&](auto access) { tw::norm<decltype(access)>(p.local); }); }
TW_LOCAL_KERNEL(activate) { tw::by_access(p, [&](auto access) { tw::activate<decltype(access)>(p.local); }); }
// Its backward pass has more in registers than two CTAs an SM could.
TW_KERNEL(attention, TW_LOCAL_THREADS, 1) { tw::by_access(p, [&](auto access) { tw::attention<decltype(access)>(p.local); }); }
TW_LOCAL_KERNEL(embedding) { tw::by_access(p, [&](auto access) { tw::embedding<decltype(access)>(p.local); }); }
TW_LOCAL_KERNEL(cross_entropy) { tw::by_access(p, [&](auto access) { tw::cross_entropy<decltype(access)>(p.local); }); }
TW_LOCAL_KERNEL(move_matrix) { tw::by_access(p, [&](auto access) { tw::move_matrix<decltype(access)>(p.local); }); }

TW_KERNEL(probe, TW_PROBE_THREADS, 2) { tw::run_probe(p); }

// A tile of 256 columns where TMA cannot address an operand, and other ranks' can: it fits what they push.
#define TW_REDUCE_KERNELS(suffix, Tile)                                                                          \
  TW_KERNEL(gemm_rs_##suffix, Tile::kThreads, 1) { tw::reduce_scatter<tw::GemmSource<Tile>>(p); }                \
  TW_KERNEL(gemm_ar_##suffix, Tile::kThreads, 1) { tw::all_reduce<tw::GemmSource<Tile>>(p); }
TW_REDUCE_KERNELS(bf16_256, tw::Tile256<mx::bf16>)
TW_REDUCE_KERNELS(f16_256, tw::Tile256<mx::f16>)

#define TW_SM90_KERNELS(suffix, Tile)                                                                            \
  TW_HOPPER_KERNEL(gemm_##suffix, tw::kSm90Threads) { tw::sm90_gemm<Tile>(p); }                                  \
  TW_HOPPER_KERNEL(gemm_rs_##suffix, tw::kSm90Threads) { tw::sm90_reduce<Tile, tw::ScatterWalk<Tile>>(p); } \
  TW_HOPPER_KERNEL(gemm_ar_##suffix, tw::kSm90Threads) { tw::sm90_reduce<Tile, tw::WaveWalk<Tile>>(p); }    \
  TW_HOPPER_KERNEL(ag_gemm_##suffix, tw::kSm90Threads) { tw::sm90_gather<Tile>(p); }
TW_SM90_KERNELS(bf16_128_sm90, tw::Sm90Tile128<mx::bf16>)
TW_SM90_KERNELS(bf16_256_sm90, tw::Sm90Tile256<mx::bf16>)
TW_SM90_KERNELS(f16_128_sm90, tw::Sm90Tile128<mx::f16>)
TW_SM90_KERNELS(f16_256_sm90, tw::Sm90Tile256<mx::f16>)

#define TW_SLIM_KERNELS(T)                                                                                       \
  TW_HOPPER_KERNEL(gemm_##T##_64_sm90, tw::kSm90Threads) { tw::sm90_slim_gemm<tw::Sm90Slim<mx::T>>(p); }         \
  TW_HOPPER_KERNEL(gemm_ar1_##T##_64_sm90, tw::kSm90Threads) { tw::sm90_slim_one_shot<tw::Sm90Slim<mx::T>>(p); }
TW_SLIM_KERNELS(bf16)
TW_SLIM_KERNELS(f16)
