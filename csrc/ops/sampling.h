// The inputs and outputs of sampling on a device: plain structs of fixed layout, arrays of them in the
// memory ops work on. Ops::sample says what they mean; runtime/runner/device_sampler.h fills them.
#pragma once

#include <bit>
#include <cstdint>

namespace llama4rt {

// Weights of tokens, e^((logit - max) / temperature), are rounded to multiples of this. Sums of them are then
// exact in fp64 (and in 64-bit integers) for up to 2^19 tokens, so every order of additions, on every device,
// gives the same distribution and a seed the same token. It moves a probability by 3e-11 of the largest.
inline constexpr int kWeightBits = 34;  // 2^-34
inline constexpr int64_t kMaxSampledVocabulary = int64_t(1) << 19;

// A weight in [0, 1] to the grid. Those from 2^-11 on lie on it already, as 24 bits of mantissa end there.
inline float weight_on_grid(float weight) {
  return weight < 0x1p-11f ? (weight + 0x1p-11f) - 0x1p-11f : weight;
}

// e^x for x <= 0 to about 1e-7 relative; exactly 0 below -87, exactly 1 at 0. Not for NaN. Single operations
// in this order and never fused, so that every machine has the same bits. Cody and Waite: e^x = 2^n e^r, |r|
// <= ln 2 / 2, with Cephes' polynomial for e^r. ln 2 in two parts, the first with few bits, so that n * part
// is exact.
inline float sampling_exp(float x) {
  // Of negative numbers, more bits mean less. A choice between floats compilers turn into a branch, and no
  // vectors of a loop over it.
  constexpr int32_t kSmallest = std::bit_cast<int32_t>(-87.f);
  const auto bits = int32_t(std::bit_cast<uint32_t>(x) | 0x80000000u);
  const int32_t below = -int32_t(bits > kSmallest);
  const float clamped = std::bit_cast<float>((bits & ~below) | (kSmallest & below));
  const auto n = int32_t(clamped * 1.44269504f - 0.5f);  // truncation rounds a negative value to nearest
  const float r = (clamped - float(n) * 0.693359375f) + float(n) * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float e = p * (r * r) + r + 1.f;
  const float scaled = e * std::bit_cast<float>((n + 127) << 23);
  return std::bit_cast<float>(std::bit_cast<int32_t>(scaled) & ~below);
}

// One row of logits and what is asked of it.
struct SampleRow {
  double uniform = 0;  // in [0, 1): the random number
  double top_p = 1;    // (0, 1]; 1: off
  float temperature = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  int32_t greedy = 0;         // not 0: the largest logit; temperature, min_p, top_k and top_p do not matter
  int32_t top_k = 0;          // 0: off
  int32_t mask = -1;          // which of the batch's masks; -1: none
  int32_t first_edit = 0;     // of the batch's edits
  int32_t num_edits = 0;      // each of another id
  int32_t num_logprobs = -1;  // -1: none; n: what the chosen token's needs, and the n best
  int32_t unused = 0;
};

// A token whose logit changes: logit + bias; then, where it has been seen, penalties.
struct SampleEdit {
  int32_t id = 0;
  float bias = 0;     // -infinity: forbidden
  uint32_t seen = 0;  // kSeen | how often in the output; 0: no penalty
  float raw = 0;      // the kernel's own: the logit before
};
inline constexpr uint32_t kSeen = 0x80000000u;

struct SampledRow {
  int32_t token = -1;  // -1: the row holds NaN or infinity, or nothing may be chosen
  float logit = 0;     // the chosen token's, before any edit
  float max = 0;       // of the row before any edit
  int32_t unused = 0;
  double total = 0;  // with num_logprobs >= 0: sum of e^(logit - max) over the row before any edit
};

struct SampledTop {
  int32_t id = -1;
  float logit = 0;
};
inline constexpr int kMaxTopLogprobs = 20;

// Arrays in the memory ops work on; edits are overwritten.
struct SampleBatch {
  int64_t num_rows = 0;             // S
  const SampleRow* rows = nullptr;  // [S]
  SampleEdit* edits = nullptr;      // [num_edits]
  const uint32_t* masks = nullptr;  // [_, ceil(V / 32)] bit i % 32 of word i / 32: token i may come
  SampledRow* sampled = nullptr;    // [S]
  SampledTop* top = nullptr;        // [S, kMaxTopLogprobs] best first; of rows with num_logprobs > 0
  int32_t* next_ids = nullptr;      // [S] or null: the tokens once more, where the next step looks for them
  bool all_plain =
      false;  // every row is greedy without edits, mask and log probabilities; what the host knows
};

}  // namespace llama4rt
