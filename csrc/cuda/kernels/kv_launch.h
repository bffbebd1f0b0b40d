// Shared by launchers of kernels that read or write the KV cache.
#pragma once

#include "base/checked_math.h"
#include "base/error.h"
#include "cuda/device/kv_layout.cuh"
#include "cuda/kernels/attention.h"
#include "cuda/launch.h"

namespace llama4rt::cuda {

// Ops::check_kv() refuses these caches before.
[[noreturn]] inline void throw_no_kv_kernel(const char* name, const KvLayer& kv) {
  throw Error(ErrorKind::kInternal,
              error_text(name, ": ", kv_kind_name(kv.format), " caches have no CUDA kernel"));
}

// A layer's cache as kernels see it.
inline KvBlocks kv_blocks(const KvLayer& kv) {
  return {.k = kv.k,
          .v = kv.v,
          .num_heads = kv.num_kv_heads,
          .block_size = kv.block_size,
          .head_dim = kv.head_dim,
          .cores = kv_in_cores(kv)};
}

// One warp for each head of each token: starts Kernel<Config<Element, largest head dim>>, for any cache.
template <template <class, int> class Config, class Kernels, class Args>
void launch_per_head(const char* name, Stream& stream, const Args& args, const KvLayer& kv, int64_t tokens,
                     int heads, const Kernels& kernels) {
  const auto start = [&](auto config) {
    launch(name, kernels(config),
           {.grid_x = int(tokens), .grid_y = ceil_div(heads, config.kWarps), .threads = config.kThreads},
           stream, args);
  };
  const auto with = [&]<class Element>(Element) {
    if (kv.head_dim <= 128) return start(Config<Element, 128>{});
    start(Config<Element, 256>{});
  };
  switch (kv.format) {
    case KvKind::kBF16:
      return with(KvBF16{});
    case KvKind::kF32:
      return with(KvF32{});
    case KvKind::kF8E4M3:
      return with(KvF8{});
    case KvKind::kInt8:
      break;
  }
  throw_no_kv_kernel(name, kv);
}

}  // namespace llama4rt::cuda
