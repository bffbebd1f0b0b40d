#include "calibrate/calibrator.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "calibrate/store_codes.h"
#include "cpu/cpu_device.h"
#include "cpu/dispatch.h"

namespace llama4rt::calibrate {
namespace {

class NoVisitor final : public LinearVisitor {
 public:
  void visit(const std::string&, const LinearInputs&) override {}
};

// Mean over tokens of |y - x|^2 / |x|^2: what the next norm makes of the difference.
double relative_change(Tensor x, Tensor y) {
  double sum = 0;
  for (int64_t t = 0; t < x.size(0); ++t) {
    const float *const a = x.row<const float>(t), *const b = y.row<const float>(t);
    double size = 1e-30, change = 0;
    for (int64_t i = 0; i < x.size(1); ++i) {
      size += double(a[i]) * double(a[i]);
      change += (double(b[i]) - double(a[i])) * (double(b[i]) - double(a[i]));
    }
    sum += change / size;
  }
  return sum / double(x.size(0));
}

}  // namespace

Calibrator::Calibrator(ModelConfig config, std::vector<int64_t> lengths, int num_threads,
                       const RoundingOptions& options)
    : config_(std::move(config)),
      lengths_(std::move(lengths)),
      num_threads_(num_threads),
      options_(options),
      pool_(num_threads) {
  LLAMA4RT_CHECK(kConfig, !lengths_.empty(), "there is no text to calibrate with");
  const int64_t longest = config_.attention_chunk_size > 0
                              ? std::min(config_.attention_chunk_size, config_.max_position_embeddings)
                              : config_.max_position_embeddings;
  for (const int64_t length : lengths_)
    LLAMA4RT_CHECK(kConfig, length > 0 && length <= longest, "a calibration sequence of ", length,
                   " tokens; the model reads 1..", longest, " in one piece");
}

void Calibrator::begin(int layer) {
  store_.reset();  // first: two layers might not fit
  reports_.clear();
  store_ = std::make_unique<LayerStore>(config_, layer);
  control_.weights_done = 0;
  control_.cancelled = false;
}

LayerStore& Calibrator::store() {
  LLAMA4RT_CHECK(kInternal, store_, "no layer was begun");
  return *store_;
}

const std::vector<MatrixReport>& Calibrator::run(Tensor x, const std::map<std::string, GridSpec>& specs) {
  std::map<std::string, GridSpec> named;
  for (const auto& [name, spec] : specs) named.emplace(full_name(name), spec);
  RoundingPass pass(store(), std::move(named), options_, cpu::select_kernels(), pool_, control_);
  run_layer(x, pass);
  reports_ = pass.reports();
  return reports_;
}

std::vector<MeasuredMatrix> Calibrator::measure(
    Tensor x, const std::map<std::string, std::vector<GridSpec>>& candidates) {
  std::map<std::string, std::vector<GridSpec>> named;
  for (const auto& [name, specs] : candidates) named.emplace(full_name(name), specs);
  const std::vector<float> before(x.ptr<float>(), x.ptr<float>() + x.numel());
  MeasuringPass pass(store(), named, options_, cpu::select_kernels(), pool_, control_);
  run_layer(x, pass);
  std::vector<float> other(before.size());
  const Tensor changed(other.data(), DType::kF32, {x.size(0), x.size(1)});
  for (MeasuredMatrix& matrix : pass.measured()) {
    control_.check();
    std::unique_ptr<Matrix> exact =
        store().replace(matrix.name, plain_codes(store(), matrix.name, named[matrix.name].front(), pool_));
    other = before;
    NoVisitor nobody;
    run_layer(changed, nobody);
    matrix.harm = relative_change(x, changed);
    store().replace(matrix.name, std::move(exact));
  }
  return std::move(pass.measured());
}

void Calibrator::run_layer(Tensor x, LinearVisitor& visitor) {
  // int8 activations on every machine, so that all make the same file.
  calibrate::run_layer(store(), x, lengths_, options_.first_weight,
                       make_cpu_device({.num_threads = num_threads_, .activations = Activations::kInt8}),
                       visitor);
}

PackError Calibrator::error(std::string_view name, int64_t expert, std::span<const int64_t> rows) const {
  PackError sum;
  for (const MatrixReport& report : reports_)
    if (report.name == full_name(name) && report.expert == expert)
      for (const int64_t row : rows) sum.add(report.errors[size_t(row)]);
  return sum;
}

}  // namespace llama4rt::calibrate
