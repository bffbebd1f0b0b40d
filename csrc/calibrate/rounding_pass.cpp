#include "calibrate/rounding_pass.h"

#include <algorithm>
#include <utility>

#include "calibrate/store_codes.h"

namespace llama4rt::calibrate {

std::string MatrixReport::name_within_layer() const {
  return name.substr(std::string_view("layers.0.").size());
}

PackError MatrixReport::error() const {
  PackError total;
  for (const PackError& error : errors) total.add(error);
  return total;
}

void RoundingPass::visit(const std::string& name, const LinearInputs& inputs) {
  const auto at = specs_.find(name);
  if (at == specs_.end()) return;
  const TensorSpec& tensor = store_.spec(name);
  std::unique_ptr<Matrix> rounded = empty_codes(store_.matrix(name), at->second);
  for (int64_t expert = 0; expert < tensor.experts; ++expert)
    round_expert(tensor, at->second, inputs, expert, *rounded);
  store_.replace(name, std::move(rounded));
}

void RoundingPass::round_expert(const TensorSpec& tensor, const GridSpec& spec, const LinearInputs& inputs,
                                int64_t expert, Matrix& rounded) {
  const Matrix& source = store_.matrix(tensor.name);
  const int64_t k = tensor.k;
  MatrixReport report{.name = tensor.name, .expert = expert, .tokens = inputs.rows(expert)};
  report.errors.resize(size_t(tensor.n));
  const LearnedInputs learned = learn_inputs(inputs, expert, options_, kernels_, pool_);
  report.plain = !learned.feedback;

  const std::vector<int64_t> rows = real_rows(tensor);
  std::vector<float> values;
  for (size_t first = 0; first < rows.size(); first += kRowsAtOnce) {
    control_.check();
    const std::span<const int64_t> some(rows.data() + first, std::min(rows.size() - first, kRowsAtOnce));
    const auto count = int64_t(some.size());
    values.resize(size_t(count * k));
    source.read_values(values.data(), expert, some, pool_);
    const RoundedRows codes = learned.feedback ? round_rows(values.data(), count, *learned.feedback,
                                                            learned.importance.data(), spec, kernels_, pool_)
                                               : round_plainly(values.data(), count, k, spec, pool_);
    for (const double cost : codes.cost) report.cost += cost / double(report.tokens);
    for (const double cost : codes.plain_cost) report.plain_cost += cost / double(report.tokens);
    store_codes(rounded, expert, some, codes, spec, pool_, tensor.name);
    for (size_t i = 0; i < some.size(); ++i) report.errors[size_t(some[i])] = codes.errors[i];
    control_.weights_done += count * k;
  }
  reports_.push_back(report);
}

}  // namespace llama4rt::calibrate
