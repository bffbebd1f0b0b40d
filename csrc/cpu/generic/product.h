// Matrix products: walks the row blocks and activation rows of a task, and finishes each block of results
// (store, add, SwiGLU) while it is still in registers.
#pragma once

#include "cpu/generic/byte_dot.h"
#include "cpu/generic/math.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// Writes outputs [first, first + 16) of a row, or those of them that exist.
inline void write_lanes(Vec y, Finish finish, float* out, int64_t first, int64_t width) {
  float* p = out + first;
  if (const int64_t n = width - first; n < kLanes) {
    if (finish == Finish::kAdd) y = Vec::load_partial(p, int(n)) + y;
    y.store_partial(p, int(n));
  } else {
    if (finish == Finish::kAdd) y = Vec::load(p) + y;
    y.store(p);
  }
}

inline void finish_block(Vec y, const Product& p, int64_t block, int64_t row) {
  const int64_t out_row = p.rows.out_row(row);
  write_lanes(y, p.finish, p.rows.out + out_row * p.rows.out_stride, block * kLanes, p.rows.out_width);
}

// block: the gate block, even; the up block is its neighbour.
inline void finish_gate_up(Vec gate, Vec up, const Product& p, int64_t block, int64_t row) {
  const int64_t out_row = p.rows.out_row(row);
  const Vec score = Vec::set1(p.rows.scores ? p.rows.scores[out_row] : 1.0f);
  write_lanes(silu(score * gate) * (score * up), Finish::kStore, p.rows.out + out_row * p.rows.out_stride,
              block / 2 * kLanes, p.rows.out_width);
}

// Walks a task in tiles of kTokenTile rows. dot<n>(sum, block, row): products of rows row .. row + n - 1 with
// a row block.
template <class Dot>
inline void walk_task(const ProductTask& task, const Dot& dot) {
  const Product& p = *task.product;
  const int64_t step = p.finish == Finish::kSwiGlu ? 2 : 1;
  for (int64_t block = task.block_begin; block < task.block_end; block += step)
    for (int64_t row = task.row_begin; row < task.row_end; row += kTokenTile)
      with_token_count(task.row_end - row < kTokenTile ? task.row_end - row : kTokenTile, [&]<int kTokens>() {
        Vec y[kTokens];
        dot(y, block, row);
        if (p.finish == Finish::kSwiGlu) {
          Vec up[kTokens];
          dot(up, block + 1, row);
          for (int t = 0; t < kTokens; ++t) finish_gate_up(y[t], up[t], p, block, row + t);
        } else {
          for (int t = 0; t < kTokens; ++t) finish_block(y[t], p, block, row + t);
        }
      });
}

template <WeightKind kKind>
inline void multiply_int(const ProductTask& task, const QuantizedRows& q) {
  const Product& p = *task.product;
  walk_task(task, [&]<int kTokens>(Vec(&y)[kTokens], int64_t block, int64_t row) {
    int_block<kTokens, kKind>(y, IntBlock(p.weight, block), q, p.first_row + row);
  });
}

inline void multiply_bytes(const ProductTask& task, const QuantizedRows& q) {
  const Product& p = *task.product;
  walk_task(task, [&]<int kTokens>(Vec(&y)[kTokens], int64_t block, int64_t row) {
    byte_block<kTokens>(y, IntBlock(p.weight, block), q, p.first_row + row);
  });
}

inline void multiply_bf16(const ProductTask& task) {
  const Product& p = *task.product;
  const int64_t block_values = cpu16::lines_per_block(WeightKind::kBF16, p.weight.k) * 2 * kLanes;
  walk_task(task, [&]<int kTokens>(Vec(&y)[kTokens], int64_t block, int64_t row) {
    const float* x[kTokens];
    for (int t = 0; t < kTokens; ++t) x[t] = p.rows.x + p.rows.x_row(row + t) * p.rows.x_stride;
    const auto* lines = static_cast<const bf16*>(p.weight.data) + block * block_values;
    float_block(y, lines, lines + kPrefetchBytes / int64_t(sizeof(bf16)), x, p.weight.k);
  });
}

inline void multiply(const ProductTask& task, const QuantizedRows& q, std::byte*) {
  switch (task.product->weight.kind) {
    case WeightKind::kBF16:
      return multiply_bf16(task);
    case WeightKind::kInt8:
      return multiply_int<WeightKind::kInt8>(task, q);
    case WeightKind::kInt4:
      return q.bytes ? multiply_bytes(task, q) : multiply_int<WeightKind::kInt4>(task, q);
  }
}
inline int64_t product_scratch_bytes(int64_t) { return 0; }

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
