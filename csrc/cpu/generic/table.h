// The table of this instruction set: what a table's .cpp hands to dispatch.cpp.
#pragma once

#include "cpu/generic/attention.h"
#include "cpu/generic/head.h"
#include "cpu/generic/layernorm.h"
#include "cpu/generic/linear.h"
#include "cpu/generic/machine_limits.h"
#include "cpu/generic/products.h"
#include "cpu/generic/quantize_row.h"
#include "cpu/generic/rmsnorm.h"
#include "cpu/generic/rows.h"
#include "cpu/kernels.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

constexpr Kernels make_table(const char* isa) {
  return {
      .isa = isa,
      .widen_row = widen_row,
      .rmsnorm_row = rmsnorm_row,
      .layernorm_row = layernorm_row,
      .gelu_row = gelu_row,
      .add_rows = add_rows,
      .sigmoid = sigmoid_one,
      .quantize_row = quantize_row,
      .pack_tile_row = nullptr,
      .min_tiled_rows = 0,
      .linear = linear_unit,
      .linear_scratch_bytes = linear_scratch_bytes,
      .transform_head = transform_head,
      .store_kv = store_kv,
      .attend = attend,
      .attention_scratch_bytes = attention_scratch_bytes,
      .merge_state = merge_state,
      .finish_state = finish_state,
      .add_products = add_products,
      .read_sum = read_sum,
      .fma_chains = fma_chains,
      .int8_chains = int8_chains,
  };
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
