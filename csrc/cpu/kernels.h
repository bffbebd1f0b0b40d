// Kernels: the inner loops of the CPU for one instruction set, as a table of function pointers.
// cpu/scalar/scalar.cpp and cpu/x86/*.cpp fill one each; dispatch.cpp chooses. A kernel works on one unit of
// output and knows no threads; CpuOps (cpu_*.cpp) splits work. All tables give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "ops/op_types.h"
#include "weights/weight.h"

namespace llama4rt::cpu {

// The rows one matrix is multiplied with. Row i is row i of x and out, or, for the rows of an expert, pick
// s = picks[i]: row s / picks_per_x of x and row s of out.
struct LinearRows {
  int64_t count = 0;
  const float* x = nullptr;  // [*, K]
  int64_t x_stride = 0;
  float* out = nullptr;  // [*, out_width]
  int64_t out_stride = 0;
  int64_t out_width = 0;           // N, or F for kSwiGlu
  const int32_t* picks = nullptr;  // [count] or null
  int64_t picks_per_x = 1;
  const float* scores = nullptr;  // [picks], kSwiGlu only; null: 1

  int64_t out_row(int64_t i) const { return picks ? picks[i] : i; }
  int64_t x_row(int64_t i) const { return picks ? picks[i] / picks_per_x : i; }
};

// Activation rows as int16 or int8 with one scale per weight group:  x[k] ~ values[k] * scales[k / group].
// Rows are in the order of the linear ops, one after the other.
struct QuantizedRows {
  int16_t* values = nullptr;  // [rows, stride]; zero from K on
  int8_t* bytes = nullptr;    // the same as int8, instead; 4-bit weights only, in the order of
                              // IVec::store_i8_nibble_order
  float* scales = nullptr;    // [rows, groups]
  int32_t* sums = nullptr;    // [rows, groups] sum of the group's values
  float* totals = nullptr;    // [rows, groups] the same as a number: sum * scale
  int64_t stride = 0;         // groups * group_size
  int64_t groups = 0;
  // The same values split for AMX, see x86/amx_linear.h; null when no linear op wants it.
  uint8_t* tiles = nullptr;  // [row tiles, K / 64, 2, 16, 64]
};

// One matrix times some rows.
struct Linear {
  Weight weight;
  LinearRows rows;
  Finish finish = Finish::kStore;
  int64_t first_row = 0;    // of its rows in QuantizedRows
  int64_t first_tile = -1;  // of its rows in QuantizedRows::tiles, 16 rows each; -1: not tiled
};

// Tiles cover 64 values of k and may not straddle a group.
inline bool tiles_fit(const Weight& w) {
  return w.has_integer_codes() && w.group_size % 64 == 0 && w.k % w.group_size == 0;
}

// A unit of a linear op: row blocks [block_begin, block_end), even numbers for kSwiGlu, times rows
// [row_begin, row_end); row_begin is a multiple of kRowTile.
struct LinearUnit {
  const Linear* linear = nullptr;
  int64_t block_begin = 0, block_end = 0;
  int64_t row_begin = 0, row_end = 0;
};
inline constexpr int64_t kRowTile = 16;

// Softmax attention works on splits of this many keys, counted from the first key a query sees; their
// partial results are merged in ascending order. So a long context can be shared by threads, with the same
// bits.
inline constexpr int64_t kSplitKeys = 1024;
inline constexpr int kMaxAttentionRows = 32;
inline constexpr int64_t kStateHeader = 16;  // floats before the weighted sum: [0] maximum, [1] sum

constexpr int64_t attention_state_floats(int64_t head_dim) {
  return kStateHeader + (head_dim + 15) / 16 * 16;
}

// Query rows (token, head) of one sequence that share a KV head, in ascending order of num_keys.
struct AttentionTile {
  int num_rows = 0;
  const float* q[kMaxAttentionRows];    // [D] each
  int64_t num_keys[kMaxAttentionRows];  // row i sees keys 0 .. num_keys[i] - 1 of the block table
  const KvLayer* kv = nullptr;
  int64_t kv_head = 0;
  const int32_t* blocks = nullptr;  // [*] block of keys j*P ..
  float scale = 1;
};

// c[i, j] += sum over t, ascending, of a[t, i] * b[t, j].
struct Products {
  float* c = nullptr;  // [rows, c_stride]
  int64_t c_stride = 0;
  const float* a = nullptr;  // [count, a_stride]
  int64_t a_stride = 0;
  const float* b = nullptr;  // [count, b_stride]
  int64_t b_stride = 0;
  int64_t rows = 0, columns = 0, count = 0;  // columns: a multiple of 16
};

struct Kernels {
  const char* isa;  // "scalar", "avx2", "avx_vnni", "avx512", "avx512_vnni", "amx"

  // --- rows
  // out[i] = table[i].   table: bf16 [dim]
  void (*widen_row)(float* out, const bf16* table, int64_t dim);
  // out[i] = x[i] * rsqrt(mean(x^2) + eps) * weight[i].   x, weight, out: [dim]
  void (*rmsnorm_row)(float* out, const float* x, const float* weight, int64_t dim, float eps);
  // out[i] = (x[i] - mean) / sqrt(mean((x - mean)^2) + eps) * weight[i] + bias[i].   all: [dim]
  void (*layernorm_row)(float* out, const float* x, const float* weight, const float* bias, int64_t dim,
                        float eps);
  // x[i] = gelu(x[i] + bias[i]).   x: [dim]; bias: [dim] or null
  void (*gelu_row)(float* x, const float* bias, int64_t dim);
  // x[i] += y[0][i] + y[1][i] + ... (summed first, in order).   x: [dim]; y: [count] rows `stride` apart
  void (*add_rows)(float* x, const float* y, int64_t stride, int64_t count, int64_t dim);
  // 1 / (1 + e^-x)
  float (*sigmoid)(float x);

  // --- linear ops
  // Quantises row `row` of `q` from x[0 .. k).
  void (*quantize_row)(const QuantizedRows& q, int64_t row, const float* x, int64_t k, int group_size);
  // Copies row `row` of `q` as row `tile_row` of q.tiles; null where the table has no tiles.
  void (*pack_tile_row)(const QuantizedRows& q, int64_t row, int64_t tile_row, WeightKind kind);
  // Linear ops with at least this many rows want tiles.
  int64_t min_tiled_rows;
  // scratch: linear_scratch_bytes(rows of the unit, groups of the weight), 64-byte aligned, of the calling thread.
  void (*linear)(const LinearUnit& unit, const QuantizedRows& q, std::byte* scratch);
  int64_t (*linear_scratch_bytes)(int64_t rows, int64_t groups);

  // --- attention
  // One head: rotates adjacent pairs by angles [D/2, 2] (cos, sin) unless null; divides by its RMS unless
  // eps < 0; multiplies with scale.
  void (*transform_head)(float* head, const float* angles, float norm_eps, float scale, int64_t head_dim);
  // Stores k and v [D] of one KV head at `slot`.
  void (*store_kv)(const KvLayer& kv, int64_t slot, int64_t kv_head, const float* k, const float* v);
  // States of all rows of the tile for one split; a row with no key there gets maximum -inf and sum 0.
  // states: [num_rows, attention_state_floats(D)]; scratch: attention_scratch_bytes() of the calling thread.
  void (*attend)(float* states, const AttentionTile& tile, int64_t split, std::byte* scratch);
  int64_t (*attention_scratch_bytes)();
  // into = into and then `next`, the state of a later split.
  void (*merge_state)(float* into, const float* next, int64_t head_dim);
  // out[d] = weighted sum / sum of weights.   out: [D]
  void (*finish_state)(float* out, const float* state, int64_t head_dim);

  // --- calibration of weights
  void (*add_products)(const Products& products);

  // --- the machine's limits, for benchmarks
  // read_sum: data of `bytes` (a multiple of 64) summed as fp32.
  float (*read_sum)(const void* data, int64_t bytes);
  // Runs `turns` rounds of independent fmas and returns the flops done; sink: one float.
  int64_t (*fma_chains)(int64_t turns, float* sink);
  // The same of products of bytes, summed as int32, without tiles.
  int64_t (*int8_chains)(int64_t turns, float* sink);
};

}  // namespace llama4rt::cpu
