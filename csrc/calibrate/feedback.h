// Feedback: how the rounding error of one input's weight is made good by the weights that are rounded after it.
//
// With the inputs in the order of rounding, H + damping = U D U^T, U upper triangular with ones on its diagonal, D
// diagonal. The error e of a row costs
//     e H e^T = sum over j of D[j] * (e[j] + sum over i < j of e[i] U[i, j])^2,
// so weight j is best rounded not from w[j] but from w[j] + sum over i < j of e[i] U[i, j], e = w - rounded. This is the
// order and the arithmetic of GPTQ (Frantar et al.) in the form of LDLQ (Chee et al.): one factorisation, no inverse.
#pragma once

#include <cstdint>
#include <vector>

#include "calibrate/gram.h"

namespace llama4rt::calibrate {

class Feedback {
 public:
  // Columns of U that are stored, and rounded, together.
  static constexpr int64_t kPanel = 32;

  // Inputs in descending order of their energy H[j, j], ties by index: what is rounded first finds most others to make
  // its error good. damping: of the mean energy, added to all; grows tenfold until the factorisation exists.
  // Throws kInternal where no damping helps: H is not finite.
  Feedback(const Square& gram, float damping, const cpu::Kernels& kernels, ThreadPool& pool);

  int64_t k() const { return int64_t(order_.size()); }
  // The input that is rounded j-th.
  int64_t input(int64_t j) const { return order_[size_t(j)]; }
  float pivot(int64_t j) const { return pivots_[size_t(j)]; }  // D[j]
  // Rows 0 .. of columns [p * kPanel, (p + 1) * kPanel) of U, kPanel wide; rows below the diagonal are not defined.
  const float* panel(int64_t p) const { return panels_.data() + kPanel * kPanel * p * (p + 1) / 2; }
  float damping() const { return damping_; }  // that was used

 private:
  std::vector<int64_t> order_;
  std::vector<float> pivots_;
  std::vector<float> panels_;
  float damping_;
};

}  // namespace llama4rt::calibrate
