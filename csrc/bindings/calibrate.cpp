// Prototype bindings.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "calibrate/rounding_pass.h"
#include "cpu/cpu_device.h"
#include "cpu/dispatch.h"

namespace py = pybind11;
namespace llama4rt {
namespace {
using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;

FloatArray gram(const FloatArray& a, const FloatArray& b, bool symmetric, int threads) {
  const int64_t k = a.shape(1);
  calibrate::Square h(k);
  FloatArray out({k, k});
  float* const to = out.mutable_data();
  const float* pa = a.data(); const float* pb = b.data();
  const int64_t n = a.shape(0);
  {
    const WithoutGil no_gil;
    ThreadPool pool(threads);
    calibrate::add_gram(h, pa, k, pb, k, n, symmetric, cpu::select_kernels(), pool);
    for (int64_t i = 0; i < k; ++i) std::copy_n(h.row(i), k, to + i * k);
  }
  return out;
}

py::tuple round_all(const FloatArray& w, const FloatArray& h, const FloatArray& importance, const std::string& kind, int group,
                    bool offsets, const std::string& dtype, float damping, bool feedback, int threads) {
  const int64_t k = w.shape(1), n = w.shape(0), groups = ceil_div(k, int64_t(group));
  calibrate::RoundedRows rows;
  const float* ph = h.data(); const float* pw = w.data(); const float* pi = importance.data();
  calibrate::GridSpec spec{weight_kind(kind), group, offsets, dtype == "BF16" ? DType::kBF16 : DType::kF32};
  {
    const WithoutGil no_gil;
    ThreadPool pool(threads);
    calibrate::Square s(k);
    for (int64_t i = 0; i < k; ++i) std::copy_n(ph + i * k, k, s.row(i));
    const calibrate::Feedback f(s, damping, cpu::select_kernels(), pool);
    rows = feedback ? calibrate::round_rows(pw, n, f, pi, spec, cpu::select_kernels(), pool)
                    : calibrate::round_plainly(pw, n, k, spec, pool);
  }
  py::array_t<uint8_t> codes({n, k}); std::copy(rows.codes.begin(), rows.codes.end(), codes.mutable_data());
  FloatArray scales({n, groups}); std::copy(rows.scales.begin(), rows.scales.end(), scales.mutable_data());
  FloatArray offs({offsets ? n : 0, groups}); std::copy(rows.offsets.begin(), rows.offsets.end(), offs.mutable_data());
  py::array_t<double> errors(rows.cost.size()); std::copy(rows.cost.begin(), rows.cost.end(), errors.mutable_data());
  py::array_t<double> plain(rows.cost.size()); std::copy(rows.plain_cost.begin(), rows.plain_cost.end(), plain.mutable_data());
  return py::make_tuple(codes, scales, offs, errors, plain);
}

class Layer {
 public:
  Layer(const std::string& config, int layer) : config_(ModelConfig::from_json(config)), store_(config_, layer) {}
  void load(const std::string& name, const FloatArray& rows, std::vector<int64_t> stored) {
    ThreadPool pool(2);
    store_.matrix("layers.0." + name).pack(0, stored, {.data = rows.data(), .dtype = DType::kF32, .rows = rows.shape(0),
      .columns = rows.shape(1), .row_bytes = rows.shape(1) * 4, .column_bytes = 4}, pool, name);
  }
  void norm(const std::string& name, const FloatArray& v) {
    std::copy_n(v.data(), v.shape(0), store_.numbers("layers.0." + name).begin());
  }
  py::list run(FloatArray x, std::vector<int64_t> lengths, const std::map<std::string, std::tuple<std::string, int, bool, std::string>>& specs,
           float damping, float importance, int threads) {
    std::map<std::string, calibrate::GridSpec> grids;
    for (const auto& [name, s] : specs)
      grids["layers.0." + name] = {weight_kind(std::get<0>(s)), std::get<1>(s), std::get<2>(s), std::get<3>(s) == "BF16" ? DType::kBF16 : DType::kF32};
    const Tensor t(x.mutable_data(), DType::kF32, {x.shape(0), x.shape(1)});
    py::list out;
    std::vector<calibrate::MatrixReport> reports;
    {
      const WithoutGil no_gil;
      ThreadPool pool(threads);
      calibrate::RoundingPass pass(store_, grids, {.damping = damping, .importance = importance}, cpu::select_kernels(), pool);
      calibrate::run_layer(store_, t, lengths, make_cpu_device({.num_threads = threads}), pass);
      reports = pass.reports();
    }
    for (const auto& r : reports) out.append(py::make_tuple(r.name, r.expert, r.tokens, r.plain, r.cost, r.plain_cost, r.squared, r.weight_squared, r.max_abs));
    return out;
  }
  py::tuple codes(const std::string& name, std::vector<int64_t> rows) {
    const Weight& w = store_.matrix("layers.0." + name).view();
    const int64_t n = int64_t(rows.size()), groups = w.num_groups();
    py::array_t<uint8_t> codes({n, w.k}); FloatArray scales({n, groups}); FloatArray offsets({w.offsets ? n : 0, groups});
    ThreadPool pool(2);
    store_.matrix("layers.0." + name).read_codes(codes.mutable_data(), scales.mutable_data(), offsets.mutable_data(), 0, rows, pool);
    return py::make_tuple(codes, scales, offsets);
  }
 private:
  ModelConfig config_;
  calibrate::LayerStore store_;
};
}  // namespace
void bind_calibrate(py::module_& m) {
  m.def("calib_gram", &gram);
  m.def("calib_round", &round_all);
  py::class_<Layer>(m, "CalibLayer", checked_instances()).def(py::init<std::string, int>()).def("load", &Layer::load).def("norm", &Layer::norm).def("run", &Layer::run).def("codes", &Layer::codes);
}
}  // namespace llama4rt
