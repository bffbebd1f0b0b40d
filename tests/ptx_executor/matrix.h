// The product that mma and wgmma share: 16 products to a sum, in the order of k. One function, so that both round alike.
#pragma once

namespace llama4rt::ptx_executor {

constexpr int kProducts = 16;

// sums[n] += row[k] * columns[k][n]. Products of two bf16 are exact in double, and so, nearly always, are their sums.
template <int kColumns>
void add_products(double* sums, const float* row, const float (*columns)[kColumns]) {
  for (int k = 0; k < kProducts; ++k) {
    const auto x = double(row[k]);
    for (int n = 0; n < kColumns; ++n) sums[n] += x * double(columns[k][n]);
  }
}

}  // namespace llama4rt::ptx_executor
