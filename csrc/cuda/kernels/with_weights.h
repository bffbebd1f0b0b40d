// From a weight to the type its kernels are instantiated with: the one dispatcher for all of them.
#pragma once

#include "base/error.h"
#include "cuda/device/weight_tiles.cuh"
#include "weights/weight.h"

namespace llama4rt::cuda {

// start.template operator()<Weights>() for the group size of w.
template <template <int> class Weights, class Start>
void with_group_size(int group_size, Start&& start) {
  if (group_size == 32) return start.template operator()<Weights<32>>();
  if (group_size == 64) return start.template operator()<Weights<64>>();
  start.template operator()<Weights<128>>();
}

template <int kGroup>
using SymmetricInt4 = Int4Weights<kGroup, false>;
template <int kGroup>
using AsymmetricInt4 = Int4Weights<kGroup, true>;

// start.template operator()<Weights>() for what w is; supports() of the launchers lets in nothing else. Kernels that
// decide at run time whether there are zero points have half of the instantiations: kZerosAtRunTime.
template <bool kZerosAtRunTime, class Start>
void with_weights(const Weight& w, Start&& start) {
  with_weight_kind(w.kind, [&]<WeightKind kind>() {
    if constexpr (!weight_format(kind).on_gpu) {
      throw Error(ErrorKind::kInternal,
                  weight_refusal(weight_format(kind), /*on_gpu=*/true));  // checked before
    } else if constexpr (kind == WeightKind::kBF16) {
      start.template operator()<BF16Weights>();
    } else if constexpr (kind == WeightKind::kInt8) {
      with_group_size<Int8Weights>(w.group_size, start);
    } else {
      static_assert(kind == WeightKind::kInt4);
      if constexpr (!kZerosAtRunTime)
        if (!w.zeros) return with_group_size<SymmetricInt4>(w.group_size, start);
      with_group_size<AsymmetricInt4>(w.group_size, start);
    }
  });
}

}  // namespace llama4rt::cuda
