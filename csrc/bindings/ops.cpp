// Single ops on numpy arrays, so that Python tests can look at one layer of the cake; and the machine's
// limits.
#include "ops/ops.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "cpu/machine_limits.h"
#include "format/engine_file.h"
#include "ops/kv_formats.h"
#include "weights/layout.h"
#include "weights/weight_formats.h"

namespace py = pybind11;

namespace llama4rt {
namespace {

using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;

// The view is read-only by convention: ops take inputs and outputs as Tensor.
Tensor matrix_view(const FloatArray& array, const char* what) {
  LLAMA4RT_CHECK(kRequest, array.ndim() == 2, what, " has ", array.ndim(), " dimensions; expected 2");
  return Tensor(const_cast<float*>(array.data()), DType::kF32, {array.shape(0), array.shape(1)});
}

FloatArray rmsnorm(const FloatArray& x, const FloatArray& weight, float eps, const std::string& device) {
  const Tensor in = matrix_view(x, "x");
  LLAMA4RT_CHECK(kRequest, weight.ndim() == 1 && weight.shape(0) == in.size(1), "weight must have the ",
                 in.size(1), " elements of a row of x");
  FloatArray result({in.size(0), in.size(1)});
  const Tensor out = matrix_view(result, "out");
  const Tensor w(const_cast<float*>(weight.data()), DType::kF32, {in.size(1)});
  const WithoutGil no_gil;
  make_device(device, {.num_threads = 0})->ops().rmsnorm(out, in, w, eps);
  return result;
}

FloatArray linear(const EngineFile& file, const std::string& name, const FloatArray& x, int64_t expert,
                  const std::string& device) {
  const Weight stack = file.weight(name);
  LLAMA4RT_CHECK(kRequest, expert >= 0 && expert < stack.num_experts, name, ": there is no expert ", expert,
                 " among ", stack.num_experts);
  const Tensor in = matrix_view(x, "x");
  LLAMA4RT_CHECK(kRequest, in.size(1) == stack.k, name, " takes ", stack.k, " inputs, x has ", in.size(1));
  FloatArray result({in.size(0), stack.n});
  const Tensor out = matrix_view(result, "out");
  const WithoutGil no_gil;
  make_device(device, {.num_threads = 0})->ops().linear(out, in, expert_view(stack, expert));
  return result;
}

py::dict measure(int num_threads) {
  cpu::MachineLimits limits;
  {
    const WithoutGil no_gil;
    limits = cpu::measure_machine(num_threads);
  }
  py::dict result;
  result["read_gbps"] = limits.read_gbps;
  result["fma_gflops"] = limits.fma_gflops;
  result["int8_gops"] = limits.int8_gops;
  return result;
}

}  // namespace

void bind_ops(py::module_& m) {
  py::class_<WeightFormat>(m, "WeightFormat", checked_instances())
      .def_property_readonly("name", [](const WeightFormat& f) { return std::string(f.name); })
      .def_readonly("bits", &WeightFormat::bits)
      .def_readonly("is_scaled", &WeightFormat::is_scaled)
      .def_readonly("may_have_zeros", &WeightFormat::may_have_zeros)
      .def_readonly("may_have_offsets", &WeightFormat::may_have_offsets)
      .def_readonly("zero", &WeightFormat::zero)
      .def_readonly("from_values", &WeightFormat::from_values);
  m.def("weight_formats",
        [] { return std::vector<WeightFormat>(kWeightFormats.begin(), kWeightFormats.end()); });
  m.def("group_sizes", [] { return std::vector<int>(kGroupSizes.begin(), kGroupSizes.end()); });
  py::class_<KvFormat>(m, "KvFormat", checked_instances())
      .def_property_readonly("name", [](const KvFormat& f) { return std::string(f.name); })
      .def_readonly("bits", &KvFormat::bits)
      .def_readonly("on_gpu", &KvFormat::on_gpu)
      .def(
          "head_bytes", [](const KvFormat& f, int64_t head_dim) { return kv_head_bytes(f, head_dim); },
          py::arg("head_dim"));
  m.def("kv_formats", [] { return std::vector<KvFormat>(kKvFormats.begin(), kKvFormats.end()); });
  m.def("rmsnorm", &rmsnorm, py::arg("x"), py::arg("weight"), py::arg("eps"), py::arg("device") = "cpu");
  m.def("linear", &linear, py::arg("file"), py::arg("name"), py::arg("x"), py::arg("expert") = 0,
        py::arg("device") = "cpu");
  m.def("measure_machine", &measure, py::arg("num_threads") = 0);
}

}  // namespace llama4rt
