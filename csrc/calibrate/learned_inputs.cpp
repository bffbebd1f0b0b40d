#include "calibrate/learned_inputs.h"

#include <cmath>

namespace llama4rt::calibrate {

LearnedInputs learn_inputs(const LinearInputs& inputs, int64_t expert, const RoundingOptions& options,
                           const cpu::Kernels& kernels, ThreadPool& pool) {
  LearnedInputs out;
  if (inputs.rows(expert) == 0) return out;
  const int64_t k = inputs.k();
  const Square gram = inputs.gram(expert, kernels, pool);
  for (int64_t j = 0; j < k; ++j) out.energy += double(gram.row(j)[j]) / double(k);
  if (!(out.energy > 0) || inputs.rows(expert) < options.fewest_tokens) return out;
  out.importance.resize(size_t(k));
  for (int64_t j = 0; j < k;
       ++j)  // inputs that never occur count a little: their weights are rounded all the same
    out.importance[size_t(j)] =
        float(std::pow(double(gram.row(j)[j]) / out.energy, double(options.importance))) + 1e-6f;
  out.feedback = std::make_unique<Feedback>(gram, options.damping, kernels, pool);
  return out;
}

}  // namespace llama4rt::calibrate
