// Columns of K whose products are summed apart from the others', from column 0 on. Where sums are cut is part
// of the numbers: every kernel that multiplies cuts alike.
#pragma once

namespace llama4rt::cuda {

inline constexpr int kSplitColumns = 1024;

// The further columns of a split of weights with offsets (device/group_sums.cuh).
inline constexpr int kGroupsOfBox = 32, kBoxColumns = 64;

}  // namespace llama4rt::cuda
