// Offsets: y[n] += sum over groups of offset[n, group] * (sum of the group's x), as products of the tensor cores. The
// groups of a split are *further columns* behind its own 1024, whose weights are offsets and whose x are sums:
//
//   a box of 64 columns for 32 groups:   | sums, as bf16: 32 | what bf16 left of them, as bf16: 32 |
//
// An offset is two bf16 likewise. Of each 16 groups, ascending, three steps of 16 columns are added to the split's sum,
// in this order: offset * sum, offset * rest of the sum, rest of the offset * sum. Both factors keep 16 bits (so F16
// offsets, and GGUF's of 6 bits times an F16 of few bits, are exact), each off by at most 2^-17 of itself; what is left
// out, rest * rest, is at most 2^-16 of the product. Together 2^-15, where each activation was rounded by up to 2^-8
// before.
#pragma once

#include "cuda/device/split_columns.h"
#include "cuda/ptx/math.cuh"
#include "cuda/ptx/rounded.cuh"
#include "cuda/ptx/warp.cuh"
#include "cuda/simt.h"

namespace llama4rt::cuda {

LLAMA4RT_DEVICE float low_of_pair(uint32_t pair) { return ptx::float_from_bits(pair << 16); }
LLAMA4RT_DEVICE float high_of_pair(uint32_t pair) { return ptx::float_from_bits(pair & 0xffff0000u); }

// The sum of a group, in each of its lanes: a lane has 8 columns of x as pairs of bf16, its neighbours the next. All
// lanes of the warp together.
LLAMA4RT_DEVICE float group_sum(const uint32_t (&x)[4], int group_shift) {
  const auto pair = [](uint32_t p) { return ptx::add(low_of_pair(p), high_of_pair(p)); };
  float sum = ptx::add(ptx::add(pair(x[0]), pair(x[1])), ptx::add(pair(x[2]), pair(x[3])));
  for (int lanes = 1; lanes < 1 << (group_shift - 3); lanes *= 2)
    sum = ptx::add(sum, ptx::shuffle_xor(sum, lanes));
  return sum;
}

// Writes a group's sum to the further columns of its split. group: of the split. Places of groups that no split has
// become 0 beside it.
LLAMA4RT_DEVICE void put_group_sum(uint16_t* further, int group, int group_shift, int boxes, float sum) {
  const uint32_t high = ptx::pack_bf16(sum, 0.0f) & 0xffffu;
  const uint32_t rest = ptx::pack_bf16(ptx::add(sum, -low_of_pair(high)), 0.0f);
  const int groups = kSplitColumns >> group_shift, places = boxes * kGroupsOfBox;
  for (int place = group; place < places; place += groups) {
    uint16_t* const to = further + place / kGroupsOfBox * kBoxColumns + place % kGroupsOfBox;
    to[0] = uint16_t(place == group ? high : 0);
    to[kGroupsOfBox] = uint16_t(place == group ? rest : 0);
  }
}

// Two numbers as bf16 and as what bf16 left of them.
LLAMA4RT_DEVICE void split_pair(uint32_t& high, uint32_t& rest, float v0, float v1) {
  high = ptx::pack_bf16(v0, v1);
  rest = ptx::pack_bf16(ptx::add(v0, -low_of_pair(high)), ptx::add(v1, -high_of_pair(high)));
}

}  // namespace llama4rt::cuda
