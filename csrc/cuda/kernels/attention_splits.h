// Splits: the parts of a row's keys (split-KV), counted from kv_begin. One block takes a split from its
// first key to its last with a running softmax; splits are merged in ascending order. Where splits begin
// depends on nothing but the position, so neither the batch nor the kernel changes a bit. They grow with the
// context: short ones keep all of a GPU busy with 2k keys, long ones keep the partial results of 10M keys few
// (1416 splits).
#pragma once

#include <cstdint>

namespace llama4rt::cuda {

#ifdef __CUDACC__
#define LLAMA4RT_HOST_AND_DEVICE __host__ __device__
#else
#define LLAMA4RT_HOST_AND_DEVICE
#endif

inline constexpr int kWarpRows = 16;  // query rows that a warp takes at once

struct Splits {
  static constexpr int64_t kShort = 256, kMiddle = 1024, kLong = 8192;  // keys
  static constexpr int64_t kMiddleBegin = 8192, kLongBegin = 131072;    // first key of the longer ones
  static constexpr int kNumShort = int(kMiddleBegin / kShort);
  static constexpr int kNumMiddle = int((kLongBegin - kMiddleBegin) / kMiddle);

  // The split of key `key`.
  static LLAMA4RT_HOST_AND_DEVICE constexpr int index(int64_t key) {
    if (key < kMiddleBegin) return int(key / kShort);
    if (key < kLongBegin) return kNumShort + int((key - kMiddleBegin) / kMiddle);
    return kNumShort + kNumMiddle + int((key - kLongBegin) / kLong);
  }
  // The first key of split `i`.
  static LLAMA4RT_HOST_AND_DEVICE constexpr int64_t begin(int i) {
    if (i < kNumShort) return i * kShort;
    if (i < kNumShort + kNumMiddle) return kMiddleBegin + (i - kNumShort) * kMiddle;
    return kLongBegin + (i - kNumShort - kNumMiddle) * kLong;
  }
  // Behind the last of `keys` keys that is in split `i`.
  static LLAMA4RT_HOST_AND_DEVICE constexpr int64_t end(int i, int64_t keys) {
    return begin(i + 1) < keys ? begin(i + 1) : keys;
  }
  // How many splits hold `keys` keys, at least one.
  static LLAMA4RT_HOST_AND_DEVICE constexpr int count(int64_t keys) {
    return keys > 0 ? index(keys - 1) + 1 : 0;
  }
};

}  // namespace llama4rt::cuda
