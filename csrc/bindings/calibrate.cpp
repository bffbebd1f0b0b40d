// Prototype bindings.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "calibrate/rounding.h"
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
    cpu::Team team(threads);
    calibrate::add_gram(h, pa, k, pb, k, n, symmetric, cpu::select_kernels(), team);
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
    cpu::Team team(threads);
    calibrate::Square s(k);
    for (int64_t i = 0; i < k; ++i) std::copy_n(ph + i * k, k, s.row(i));
    const calibrate::Feedback f(s, damping, cpu::select_kernels(), team);
    rows = calibrate::round_rows(pw, k, n, f, pi, spec, {feedback}, cpu::select_kernels(), team);
  }
  py::array_t<uint8_t> codes({n, k}); std::copy(rows.codes.begin(), rows.codes.end(), codes.mutable_data());
  FloatArray scales({n, groups}); std::copy(rows.scales.begin(), rows.scales.end(), scales.mutable_data());
  FloatArray offs({offsets ? n : 0, groups}); std::copy(rows.offsets.begin(), rows.offsets.end(), offs.mutable_data());
  py::array_t<double> errors(n); std::copy(rows.errors.begin(), rows.errors.end(), errors.mutable_data());
  return py::make_tuple(codes, scales, offs, errors);
}
}  // namespace
void bind_calibrate(py::module_& m) {
  m.def("calib_gram", &gram);
  m.def("calib_round", &round_all);
}
}  // namespace llama4rt
