#include "cuda/cuda_scratch.h"

#include <algorithm>

#include "base/checked_math.h"
#include "cuda/kernels/attention_spans.h"
#include "format/layout.h"

namespace llama4rt {
namespace {

constexpr int64_t kSplit = 1024;                          // columns whose products are summed apart
constexpr int64_t kDecodeRows = 64;                       // of a matrix, to a block of linear_decode
constexpr int64_t kFullWithoutSplits = 1024;              // of such blocks
constexpr int64_t kDecodePlaces = 128;                    // tokens and slots whose split sums are kept
constexpr int64_t kDecodeTokens = 16;                     // of one matrix, up to which linear_decode is taken
constexpr int64_t kMediumRows = 128, kMediumTokens = 64;  // a tile of linear_medium
constexpr int64_t kMediumPlaces = 2 * 192;  // tiles below which splits run side by side, on the largest GPU
constexpr int64_t kMostAttention = int64_t(1) << 30;  // attention_decode takes no more
constexpr int64_t kAttentionRows = 16, kAttentionTiles = 2;
constexpr int64_t kRouteTokens = 256;                  // of a block that counts
constexpr int64_t kSampleRun = 256, kSampleBytes = 8;  // tokens whose best is kept, in so many bytes
constexpr int64_t kFewTickets = 16 << 10;

class Most {
 public:
  void at_least(int64_t values, int64_t tickets = 0) {
    most_.values = std::max(most_.values, values);
    most_.tickets = std::max(most_.tickets, tickets);
  }

  // One product of `rows` rows with a matrix, or with `experts` of them, `shared` rows beside.
  void product(int64_t n, int64_t k, int64_t rows, int64_t experts = 1, int64_t shared = 0,
               bool combined = false) {
    const int64_t splits = ceil_div(k, kSplit), blocks = ceil_div(n, kDecodeRows);
    const int64_t places = std::min(rows, std::max(kDecodePlaces, kDecodeTokens * experts)) +
                           std::min(shared, kDecodeTokens * experts);
    const int64_t parts = blocks >= kFullWithoutSplits ? 1 : splits;
    const int64_t decode = blocks * kDecodeRows * int64_t(sizeof(float)) *
                           std::max(parts * std::min(places, kDecodePlaces), places);
    const int64_t rounded = rows * round_up(k, int64_t(64)) * 2 + (combined ? rows * n * 4 : 0) + 2 * 256;
    const int64_t tiles = ceil_div(n, kMediumRows) * (rows / kMediumTokens + std::min(experts, rows));
    const int64_t medium =
        std::min(tiles, kMediumPlaces) * (splits > 1 ? splits : 0) * kMediumRows * kMediumTokens * 4;
    at_least(std::max(decode, rounded + medium), std::max(blocks, kMediumPlaces) * 4);
  }
  ScratchBytes bytes() const { return most_; }

 private:
  ScratchBytes most_;
};

}  // namespace

ScratchBytes cuda_scratch_bytes(const ModelConfig& c, const StepShape& shape) {
  Most most;
  most.at_least(256, kFewTickets);
  const int64_t T = shape.max_tokens, K = c.num_experts_per_tok, E = c.num_local_experts;
  most.product(c.q_dim() + 2 * c.kv_dim(), c.hidden_size, T);
  most.product(c.hidden_size, c.q_dim(), T);
  most.product(c.vocab_size, c.hidden_size, shape.max_outputs);
  if (std::count(c.moe_layers.begin(), c.moe_layers.end(), false) > 0) {
    most.product(cpu16::gate_up_rows(c.intermediate_size_mlp), c.hidden_size, T);
    most.product(c.hidden_size, c.intermediate_size_mlp, T);
  }
  if (E > 0) {
    most.product(cpu16::gate_up_rows(c.intermediate_size), c.hidden_size, T * K, E, T);
    most.product(c.hidden_size, c.intermediate_size, T * K, E, T, /*combined=*/K > 1);
    most.at_least(ceil_div(T * K, kRouteTokens) * E * 4 + T * E * 4);
  }
  // Decode steps have block tables as wide as the next power of two.
  const int64_t keys = 2 * std::max(shape.max_context, int64_t(16) * shape.block_size);
  const int64_t places = shape.max_seqs * kAttentionTiles * c.num_key_value_heads;
  most.at_least(
      std::min(places * cuda::Spans::count(keys) * kAttentionRows * (c.head_dim + 2) * 4, kMostAttention),
      places * 4);
  most.at_least(shape.max_outputs * ceil_div(c.vocab_size, kSampleRun) * kSampleBytes, shape.max_outputs * 4);
  if (c.vision) {
    const VisionConfig& v = *c.vision;
    const int64_t rows = shape.vision_rows, tiles = rows / (v.num_patches() + 1),
                  tokens = tiles * v.tokens_per_tile();
    most.product(v.hidden_size, v.patch_dim(), v.num_patches());
    most.product(3 * v.hidden_size, v.hidden_size, rows);
    most.product(v.hidden_size, v.hidden_size, rows);
    most.product(v.intermediate_size, v.hidden_size, rows);
    most.product(v.hidden_size, v.intermediate_size, rows);
    most.product(v.adapter_hidden_size, v.intermediate_size, tokens);
    most.product(v.output_dim, v.adapter_hidden_size, tokens);
    most.product(c.hidden_size, v.output_dim, tokens);
    const int64_t packed = round_up(int64_t(v.head_dim()), int64_t(16)) * v.num_attention_heads;
    most.at_least(2 * 2 * tiles * round_up(v.num_patches() + 1, int64_t(16)) * packed);
  }
  return most.bytes();
}

}  // namespace llama4rt
