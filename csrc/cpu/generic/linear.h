// Linear ops: walks the row blocks and activation rows of a unit, and finishes each block of results (store,
// add, SwiGLU) while it is still in registers.
#pragma once

#include "cpu/generic/byte_dot.h"
#include "cpu/generic/fp8_dot.h"
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

inline void finish_block(Vec y, const Linear& linear, int64_t block, int64_t row) {
  const int64_t out_row = linear.rows.out_row(row);
  write_lanes(y, linear.finish, linear.rows.out + out_row * linear.rows.out_stride, block * kLanes,
              linear.rows.out_width);
}

// block: the gate block, even; the up block is its neighbour.
inline void finish_gate_up(Vec gate, Vec up, const Linear& linear, int64_t block, int64_t row) {
  const int64_t out_row = linear.rows.out_row(row);
  const Vec score = Vec::set1(linear.rows.scores ? linear.rows.scores[out_row] : 1.0f);
  write_lanes(silu(score * gate) * (score * up), Finish::kStore,
              linear.rows.out + out_row * linear.rows.out_stride, block / 2 * kLanes, linear.rows.out_width);
}

// Walks a unit in tiles of kTokenTile rows. make(block, part) is what is known of a row block, once for all rows;
// dot<n>(sum, made, row): rows row .. row + n - 1 times it. dot is called in one place, for gate and up (parts 0 and 1)
// in turn, because all of it is inlined there.
template <class Make, class Dot>
inline void walk_unit(const LinearUnit& unit, const Make& make, const Dot& dot) {
  const Linear& linear = *unit.linear;
  const int64_t step = linear.finish == Finish::kSwiGlu ? 2 : 1;
  for (int64_t block = unit.block_begin; block < unit.block_end; block += step) {
    const decltype(make(block, 0)) made[2] = {make(block, 0), make(block + step - 1, int(step - 1))};
    for (int64_t row = unit.row_begin; row < unit.row_end; row += kTokenTile)
      with_token_count(unit.row_end - row < kTokenTile ? unit.row_end - row : kTokenTile, [&]<int kTokens>() {
        Vec y[2][kTokens];
        for (int64_t part = 0; part < step; ++part) {
          Vec sum[kTokens];
          dot(sum, made[part], row);
          for (int t = 0; t < kTokens; ++t) y[part][t] = sum[t];
        }
        if (linear.finish == Finish::kSwiGlu)
          for (int t = 0; t < kTokens; ++t) finish_gate_up(y[0][t], y[1][t], linear, block, row + t);
        else
          for (int t = 0; t < kTokens; ++t) finish_block(y[0][t], linear, block, row + t);
      });
  }
}

// Scales and offsets of a row block as fp32, of gate and of up.   scratch: linear_scratch_bytes()
inline float* side_memory(std::byte* scratch, int part, int64_t groups) {
  return reinterpret_cast<float*>(scratch) + part * 2 * groups * kLanes;
}
inline int64_t linear_scratch_bytes(int64_t, int64_t groups) {
  return 2 * 2 * groups * kLanes * int64_t(sizeof(float));
}

// 4-bit codes meet activations of 8 bits where there are some, all others of 16.
template <WeightKind kKind>
inline void linear_int(const LinearUnit& unit, const QuantizedRows& q, std::byte* scratch) {
  const Linear& linear = *unit.linear;
  const auto make = [&](int64_t index, int part) {
    IntBlock block(linear.weight, index);
    if (unit.row_end - unit.row_begin > 2 * kTokenTile)
      block.widen_sides(side_memory(scratch, part, q.groups), q.groups);
    return block;
  };
  if constexpr (weight_format(kKind).bits == 4)
    if (q.bytes) {
      if constexpr (kBytePairs && kKind == WeightKind::kTable4)
        if (narrow_table(linear.weight.table))
          return walk_unit(unit, make,
                           [&]<int kTokens>(Vec(&y)[kTokens], const IntBlock& block, int64_t row) {
                             byte_block<kTokens, kKind, true>(y, block, q, linear.first_row + row);
                           });
      return walk_unit(unit, make, [&]<int kTokens>(Vec(&y)[kTokens], const IntBlock& block, int64_t row) {
        byte_block<kTokens, kKind>(y, block, q, linear.first_row + row);
      });
    }
  walk_unit(unit, make, [&]<int kTokens>(Vec(&y)[kTokens], const IntBlock& block, int64_t row) {
    int_block<kTokens, kKind>(y, block, q, linear.first_row + row);
  });
}

// dot(y, made, x): rows x[t] [K] of the unit times a row block
template <class Make, class Dot>
inline void linear_float(const LinearUnit& unit, const Make& make, const Dot& dot) {
  const Linear& linear = *unit.linear;
  walk_unit(unit, make, [&]<int kTokens>(Vec(&y)[kTokens], const auto& made, int64_t row) {
    const float* x[kTokens];
    for (int t = 0; t < kTokens; ++t)
      x[t] = linear.rows.x + linear.rows.x_row(row + t) * linear.rows.x_stride;
    dot(y, made, x);
  });
}

inline void linear_bf16(const LinearUnit& unit) {
  const Weight& w = unit.linear->weight;
  const int64_t block_values = cpu16::lines_per_block(WeightKind::kBF16, w.k) * 2 * kLanes;
  linear_float(
      unit, [&](int64_t block, int) { return static_cast<const bf16*>(w.data) + block * block_values; },
      [&](auto& y, const bf16* lines, const float* const* x) LLAMA4RT_INLINE_LAMBDA {
        float_block(y, lines, lines + kPrefetchBytes / int64_t(sizeof(bf16)), x, w.k);
      });
}

inline void linear_fp8(const LinearUnit& unit) {
  const Weight& w = unit.linear->weight;
  linear_float(
      unit, [&](int64_t block, int) { return IntBlock(w, block); },
      [&](auto& y, const IntBlock& block, const float* const* x)
          LLAMA4RT_INLINE_LAMBDA { fp8_block(y, block, x, w.k); });
}

inline void linear_unit(const LinearUnit& unit, const QuantizedRows& q, std::byte* scratch) {
  switch (unit.linear->weight.kind) {
    case WeightKind::kBF16:
      return linear_bf16(unit);
    case WeightKind::kInt8:
      return linear_int<WeightKind::kInt8>(unit, q, scratch);
    case WeightKind::kInt4:
      return linear_int<WeightKind::kInt4>(unit, q, scratch);
    case WeightKind::kFp8:
      return linear_fp8(unit);
    case WeightKind::kTable4:
      return linear_int<WeightKind::kTable4>(unit, q, scratch);
  }
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
