#include "calibrate/measuring_pass.h"

#include <algorithm>
#include <numeric>

#include "calibrate/store_codes.h"

namespace llama4rt::calibrate {
namespace {

constexpr size_t kSample = 256;  // rows of a matrix, spread evenly, that stand for all

std::vector<int64_t> sample_of(const std::vector<int64_t>& rows) {
  const size_t count = std::min(rows.size(), kSample);
  std::vector<int64_t> some;
  for (size_t i = 0; i < count; ++i) some.push_back(rows[i * rows.size() / count]);
  return some;
}

double sum(const std::vector<double>& of) { return std::accumulate(of.begin(), of.end(), 0.0); }

}  // namespace

void MeasuringPass::visit(const std::string& name, const LinearInputs& inputs) {
  const auto at = candidates_.find(name);
  if (at == candidates_.end()) return;
  const TensorSpec& tensor = store_.spec(name);
  MeasuredMatrix out{.name = name, .costs = std::vector<double>(at->second.size())};
  for (int64_t expert = 0; expert < tensor.experts; ++expert) {
    control_.check();
    measure_expert(tensor, at->second, inputs, expert, out);
    control_.weights_done += tensor.n * tensor.k;
  }
  measured_.push_back(out);
}

void MeasuringPass::measure_expert(const TensorSpec& tensor, const std::vector<GridSpec>& candidates,
                                   const LinearInputs& inputs, int64_t expert, MeasuredMatrix& out) {
  const LearnedInputs learned = learn_inputs(inputs, expert, options_, kernels_, pool_);
  if (!(learned.energy > 0)) return;  // nobody asked it anything
  const std::vector<int64_t> rows = real_rows(tensor), some = sample_of(rows);
  const auto count = int64_t(some.size());
  std::vector<float> values(size_t(count * tensor.k));
  store_.matrix(tensor.name).read_values(values.data(), expert, some, pool_);
  const double scale = double(rows.size()) / double(some.size());
  for (size_t c = 0; c < candidates.size(); ++c) {
    double cost = 0, plain = 0;
    if (learned.feedback) {
      const RoundedRows rounded = round_rows(values.data(), count, *learned.feedback,
                                             learned.importance.data(), candidates[c], kernels_, pool_);
      cost = sum(rounded.cost);
      plain = sum(rounded.plain_cost);
    } else {  // too few tokens: as if all inputs were alike, and each apart from the others
      const RoundedRows rounded = round_plainly(values.data(), count, tensor.k, candidates[c], pool_);
      for (const PackError& error : rounded.errors) cost += error.squared * learned.energy;
      plain = cost;
    }
    out.costs[c] += cost * scale;
    if (c == 0) out.plain_cost += plain * scale;
  }
}

}  // namespace llama4rt::calibrate
