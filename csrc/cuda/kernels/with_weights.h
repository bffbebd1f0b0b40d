// From a weight to the type its kernels are instantiated with: the one dispatcher for all of them.
#pragma once

#include "base/error.h"
#include "cuda/device/general_weights.cuh"
#include "cuda/device/weight_tiles.cuh"
#include "cuda/kernels/general_weights.h"
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

// The instantiations of a kernel for general weights: for groups of so many columns, or with kMultiples for those of a
// multiple, which costs more where a group may end.
template <int kColumns, bool kMultiples>
struct Unit {};
using Exactly16 = Unit<16, false>;
using Exactly32 = Unit<32, false>;
using Any16 = Unit<16, true>;
using Any32 = Unit<32, true>;
using Any64 = Unit<64, true>;
template <class... EachUnit>  // ascending from 16
struct Units {};

// The same for the largest unit that is not above the group size.
template <template <int, bool> class Weights, int kColumns, bool kMultiples, class Start>
void with_unit(Units<Unit<kColumns, kMultiples>>, int, Start&& start) {
  static_assert(kMultiples);
  start.template operator()<Weights<kColumns, true>>();
}
template <template <int, bool> class Weights, int kColumns, bool kMultiples, int kNext, bool kNextMultiples,
          class... Larger, class Start>
void with_unit(Units<Unit<kColumns, kMultiples>, Unit<kNext, kNextMultiples>, Larger...>, int group_size,
               Start&& start) {
  static_assert(kMultiples || kNext == 2 * kColumns);
  if (group_size >= kNext)
    return with_unit<Weights>(Units<Unit<kNext, kNextMultiples>, Larger...>(), group_size, start);
  start.template operator()<Weights<kColumns, kMultiples>>();
}

template <class UnitsOf4Bits, class UnitsOf8Bits, class Start>
void with_general_weights(const Weight& w, Start&& start) {
  switch (w.kind) {
    case WeightKind::kInt4:
      return with_unit<GeneralInt4>(UnitsOf4Bits(), w.group_size, start);
    case WeightKind::kInt8:
      return with_unit<GeneralInt8>(UnitsOf8Bits(), w.group_size, start);
    case WeightKind::kFp8:
      return with_unit<GeneralFp8>(UnitsOf8Bits(), w.group_size, start);
    case WeightKind::kTable4:
      return with_unit<GeneralTable4>(UnitsOf4Bits(), w.group_size, start);
    case WeightKind::kBF16:
      break;
  }
  throw Error(ErrorKind::kInternal, "bf16 weights have kernels of their own");
}

// start.template operator()<Weights>() for what w is; supports() of the launchers lets in nothing else. Kernels that
// decide at run time whether int4 has zero points have half of the instantiations: kZerosAtRunTime.
template <bool kZerosAtRunTime, class UnitsOf4Bits, class UnitsOf8Bits, class Start>
void with_weights(const Weight& w, Start&& start) {
  if (!has_fixed_kernels(w)) return with_general_weights<UnitsOf4Bits, UnitsOf8Bits>(w, start);
  if (w.kind == WeightKind::kBF16) return start.template operator()<BF16Weights>();
  if (w.kind == WeightKind::kInt8) return with_group_size<Int8Weights>(w.group_size, start);
  if constexpr (!kZerosAtRunTime)
    if (!w.zeros) return with_group_size<SymmetricInt4>(w.group_size, start);
  with_group_size<AsymmetricInt4>(w.group_size, start);
}

}  // namespace llama4rt::cuda
