// Loops that do nothing but load, nothing but fma, nothing but byte products: what the hardware gives at
// best.
#pragma once

#include "cpu/generic/int_vec.h"

namespace llama4rt::cpu::LLAMA4RT_ISA {

// Sums a buffer as fp32. data: `bytes` bytes, a multiple of 64.
inline float read_sum(const void* data, int64_t bytes) {
  constexpr int kChains = 8;  // enough loads in flight; the adds must not be what we measure
  const auto* p = static_cast<const float*>(data);
  Vec sum[kChains];
  for (Vec& s : sum) s = Vec::zero();
  const int64_t lines = bytes / 64;
  int64_t i = 0;
  for (; i + kChains <= lines; i += kChains)
    for (int j = 0; j < kChains; ++j) sum[j] = sum[j] + Vec::load(p + (i + j) * 16);
  for (; i < lines; ++i) sum[0] = sum[0] + Vec::load(p + i * 16);
  for (int j = 1; j < kChains; ++j) sum[0] = sum[0] + sum[j];
  return reduce_add(sum[0]);
}

// Runs independent fma chains and returns the flops done. sink: one float, read and written so that the work
// cannot be optimised away.
inline int64_t fma_chains(int64_t turns, float* sink) {
  const Vec a = Vec::set1(*sink), b = Vec::set1(*sink);
  Vec sum[kFmaChains];
  for (Vec& s : sum) s = a;
  for (int64_t i = 0; i < turns; ++i)
    for (int j = 0; j < kFmaChains; ++j) sum[j] = fma(a, b, sum[j]);
  for (int j = 1; j < kFmaChains; ++j) sum[0] = sum[0] + sum[j];
  *sink = reduce_add(sum[0]);
  return turns * kFmaChains * kLanes * 2;
}

// Runs independent chains of byte products, 64 of them per vector and step, and returns the operations done
// (a product and its addition are 2). sink: one float, as in fma_chains.
inline int64_t int8_chains(int64_t turns, float* sink) {
  IVec a = IVec::set1(int32_t(*sink) + 0x01020304);
  const IVec b = IVec::set1(int32_t(*sink));
  IVec sum[kInt8Chains];
  for (IVec& s : sum) s = IVec::zero();
  for (int64_t i = 0; i < turns; ++i)
    for (int j = 0; j < kInt8Chains; ++j) {
      forget_value(a);
      sum[j] = dot_bytes(sum[j], a, b);
    }
  for (int j = 1; j < kInt8Chains; ++j) sum[0] = sum[0] + sum[j];
  *sink = float(reduce_add(sum[0]));
  return turns * kInt8Chains * kLanes * 4 * 2;
}

}  // namespace llama4rt::cpu::LLAMA4RT_ISA
