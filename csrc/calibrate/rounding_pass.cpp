#include "calibrate/rounding_pass.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"

namespace llama4rt::calibrate {
namespace {

constexpr int64_t kRowsAtOnce = 4096;  // of a matrix in fp32

// The stored rows of a matrix that are not padding.
std::vector<int64_t> real_rows(const TensorSpec& tensor) {
  std::vector<int64_t> rows;
  for (size_t part = 0; part < tensor.parts.size(); ++part)
    for (int64_t row = 0; row < tensor.parts[part].rows; ++row) rows.push_back(tensor.stored_row(part, row));
  std::sort(rows.begin(), rows.end());
  return rows;
}

}  // namespace

std::string MatrixReport::name_within_layer() const { return name.substr(std::string_view("layers.0.").size()); }

void PassControl::check() const { LLAMA4RT_CHECK(kInternal, !cancelled, "the calibration was cancelled"); }

PackError MatrixReport::error() const {
  PackError total;
  for (const PackError& error : errors) total.add(error);
  return total;
}

void RoundingPass::visit(const std::string& name, const LinearInputs& inputs) {
  const auto at = specs_.find(name);
  if (at == specs_.end()) return;
  const TensorSpec& tensor = store_.spec(name);
  Weight shape = store_.matrix(name).view();
  shape.kind = at->second.kind;
  shape.group_size = at->second.group_size;
  shape.scale_dtype = at->second.scale_dtype;
  auto rounded = std::make_unique<Matrix>(shape, at->second.offsets);
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
  report.plain = report.tokens < options_.fewest_tokens;

  std::unique_ptr<Feedback> feedback;
  std::vector<float> importance(static_cast<size_t>(k));
  if (!report.plain) {
    const Square gram = inputs.gram(expert, kernels_, pool_);
    double mean = 0;
    for (int64_t j = 0; j < k; ++j) mean += double(gram.row(j)[j]) / double(k);
    for (int64_t j = 0; j < k && mean > 0; ++j)
      importance[size_t(j)] = float(std::pow(double(gram.row(j)[j]) / mean, double(options_.importance))) + 1e-6f;
    if (mean > 0)
      feedback = std::make_unique<Feedback>(gram, options_.damping, kernels_, pool_);
    else
      report.plain = true;
  }

  const std::vector<int64_t> rows = real_rows(tensor);
  std::vector<float> values;
  for (size_t first = 0; first < rows.size(); first += kRowsAtOnce) {
    control_.check();
    const std::span<const int64_t> some(rows.data() + first, std::min(rows.size() - first, size_t(kRowsAtOnce)));
    const auto count = int64_t(some.size());
    values.resize(size_t(count * k));
    source.read_values(values.data(), expert, some, pool_);
    const RoundedRows codes =
        feedback ? round_rows(values.data(), count, *feedback, importance.data(), spec, kernels_, pool_)
                 : round_plainly(values.data(), count, k, spec, pool_);
    for (const double cost : codes.cost) report.cost += cost / double(report.tokens);
    for (const double cost : codes.plain_cost) report.plain_cost += cost / double(report.tokens);
    std::vector<uint16_t> halves, half_offsets;
    CodeRows ready{.codes = codes.codes.data(), .scales = codes.scales.data(), .rows = count};
    if (spec.offsets) ready.offsets = codes.offsets.data();
    if (spec.scale_dtype == DType::kBF16) {
      const auto narrow = [](const std::vector<float>& from, std::vector<uint16_t>& to) {
        for (const float x : from) to.push_back(to_bf16(x).bits);
        return to.data();
      };
      ready.scales = narrow(codes.scales, halves);
      if (spec.offsets) ready.offsets = narrow(codes.offsets, half_offsets);
    }
    rounded.pack_codes(expert, some, ready, pool_, tensor.name);
    for (size_t i = 0; i < some.size(); ++i) report.errors[size_t(some[i])] = codes.errors[i];
    control_.weights_done += count * k;
  }
  reports_.push_back(report);
}

}  // namespace llama4rt::calibrate
