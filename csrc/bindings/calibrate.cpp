// Calibration: one layer after the other, from the rows of a checkpoint to codes. And its arithmetic alone, for tests.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "calibrate/calibrator.h"
#include "cpu/dispatch.h"

namespace py = pybind11;

namespace llama4rt {
namespace {

using FloatArray = py::array_t<float, py::array::c_style>;
using Int64Array = py::array_t<int64_t, py::array::c_style>;
using calibrate::GridSpec;
using calibrate::MatrixReport;

py::tuple error_tuple(const PackError& error) {
  return py::make_tuple(error.squared, error.weight_squared, error.max_abs);
}

// (kind, group_size, offsets, scale_dtype)
using GridTuple = std::tuple<std::string, int, bool, std::string>;

GridSpec grid_spec(const GridTuple& grid) {
  const auto& [kind, group_size, offsets, scale_dtype] = grid;
  GridSpec spec{.kind = weight_kind(kind), .group_size = group_size, .offsets = offsets};
  LLAMA4RT_CHECK(kConfig, spec.kind == WeightKind::kInt4 || spec.kind == WeightKind::kInt8,
                 "calibration makes int4 and int8, not ", kind);
  LLAMA4RT_CHECK(kConfig, valid_group_size(group_size), "group_size is ", group_size, "; it must be ",
                 group_size_names());
  LLAMA4RT_CHECK(kInternal, scale_dtype == "BF16" || scale_dtype == "F32", "scales are BF16 or F32, not ",
                 scale_dtype);
  spec.scale_dtype = scale_dtype == "BF16" ? DType::kBF16 : DType::kF32;
  return spec;
}

std::span<const int64_t> row_span(const Int64Array& rows) { return {rows.data(), size_t(rows.size())}; }

using calibrate::Calibrator;

std::unique_ptr<Calibrator> make_calibrator(const std::string& config, std::vector<int64_t> lengths,
                                            int num_threads, float damping, float importance,
                                            float first_weight, int64_t fewest_tokens) {
  return std::make_unique<Calibrator>(ModelConfig::from_json(config), std::move(lengths), num_threads,
                                      calibrate::RoundingOptions{.damping = damping,
                                                                 .importance = importance,
                                                                 .first_weight = first_weight,
                                                                 .fewest_tokens = fewest_tokens});
}

void load_rows(Calibrator& calibrator, const std::string& name, int64_t expert, const Int64Array& rows,
               const py::array& source, const std::string& dtype, bool transposed) {
  const SourceMatrix matrix = source_matrix(source, dtype, transposed);
  const auto stored = row_span(rows);
  const WithoutGil no_gil;
  calibrator.matrix(name).pack(expert, stored, matrix, calibrator.pool(), name);
}

void load_numbers(Calibrator& calibrator, const std::string& name, const FloatArray& values) {
  const std::span<float> numbers = calibrator.numbers(name);
  LLAMA4RT_CHECK(kInternal, values.size() == py::ssize_t(numbers.size()), name, ": has ", numbers.size(),
                 " numbers, not ", values.size());
  std::copy_n(values.data(), values.size(), numbers.begin());
}

Tensor residual_stream(FloatArray& x) {
  LLAMA4RT_CHECK(kInternal, x.ndim() == 2, "the residual stream has ", x.ndim(), " dimensions; expected 2");
  return Tensor(x.mutable_data(), DType::kF32, {x.shape(0), x.shape(1)});
}

std::vector<MatrixReport> run(Calibrator& calibrator, FloatArray x,
                              const std::map<std::string, GridTuple>& grids) {
  std::map<std::string, GridSpec> specs;
  for (const auto& [name, grid] : grids) specs.emplace(name, grid_spec(grid));
  const Tensor stream = residual_stream(x);
  const WithoutGil no_gil;
  return calibrator.run(stream, specs);
}

// (name, costs of the candidates, plain cost of the first, harm) of each matrix
py::list measure(Calibrator& calibrator, FloatArray x,
                 const std::map<std::string, std::vector<GridTuple>>& grids) {
  std::map<std::string, std::vector<GridSpec>> candidates;
  for (const auto& [name, some] : grids)
    for (const GridTuple& grid : some) candidates[name].push_back(grid_spec(grid));
  const Tensor stream = residual_stream(x);
  std::vector<calibrate::MeasuredMatrix> measured;
  {
    const WithoutGil no_gil;
    measured = calibrator.measure(stream, candidates);
  }
  py::list out;
  for (const calibrate::MeasuredMatrix& matrix : measured)
    out.append(py::make_tuple(matrix.name_within_layer(), matrix.costs, matrix.plain_cost, matrix.harm));
  return out;
}

// (codes [rows, k], scales and offsets [rows, groups] as fp32, offsets None without; sums of the rows' error)
py::tuple codes(Calibrator& calibrator, const std::string& name, int64_t expert, const Int64Array& rows) {
  const calibrate::Matrix& matrix = calibrator.matrix(name);
  const Weight& w = matrix.view();
  LLAMA4RT_CHECK(kInternal, w.quantized(), name, ": has no codes");
  py::array_t<uint8_t> values({rows.size(), py::ssize_t(w.k)});
  FloatArray scales({rows.size(), py::ssize_t(w.num_groups())});
  FloatArray offsets({w.offsets ? rows.size() : 0, py::ssize_t(w.num_groups())});
  const auto stored = row_span(rows);
  uint8_t* const to = values.mutable_data();
  float *const s = scales.mutable_data(), *const o = offsets.mutable_data();
  {
    const WithoutGil no_gil;
    matrix.read_codes(to, s, o, expert, stored, calibrator.pool());
  }
  return py::make_tuple(values, scales, w.offsets ? py::object(offsets) : py::none(),
                        error_tuple(calibrator.error(name, expert, stored)));
}

// Bytes that a layer takes beside its weights.
py::dict memory(const Calibrator& calibrator, int layer) {
  const calibrate::PassMemory pass = calibrator.memory(layer);
  py::dict out;
  out["activations"] = pass.activations;
  out["cache"] = pass.cache;
  return out;
}

FloatArray gram(const FloatArray& x, int num_threads) {
  LLAMA4RT_CHECK(kInternal, x.ndim() == 2, "x has ", x.ndim(), " dimensions; expected 2");
  const int64_t rows = x.shape(0), k = x.shape(1);
  FloatArray out({k, k});
  const float* const from = x.data();
  float* const to = out.mutable_data();
  const WithoutGil no_gil;
  ThreadPool pool(num_threads);
  calibrate::Square h(k);
  calibrate::add_gram(h, from, k, from, k, rows, true, cpu::select_kernels(), pool);
  for (int64_t i = 0; i < k; ++i) std::copy_n(h.row(i), k, to + i * k);
  return out;
}

// (codes, scales, offsets or None, cost, plain_cost) of the rows of w for inputs with these sums of products.
py::tuple round_weights(const FloatArray& w, const FloatArray& h, const FloatArray& importance,
                        const GridTuple& grid, float damping, int num_threads) {
  const int64_t rows = w.shape(0), k = w.shape(1);
  const GridSpec spec = grid_spec(grid);
  calibrate::RoundedRows rounded;
  const float *const values = w.data(), *const sums = h.data(), *const counts = importance.data();
  {
    const WithoutGil no_gil;
    ThreadPool pool(num_threads);
    calibrate::Square square(k);
    for (int64_t i = 0; i < k; ++i) std::copy_n(sums + i * k, k, square.row(i));
    const calibrate::Feedback feedback(square, damping, cpu::select_kernels(), pool);
    rounded = calibrate::round_rows(values, rows, feedback, counts, spec, cpu::select_kernels(), pool);
  }
  const auto array = [](const auto& from, std::vector<py::ssize_t> shape) {
    return py::array_t<std::remove_cvref_t<decltype(from[0])>>(std::move(shape), from.data());
  };
  const py::ssize_t groups = ceil_div(k, int64_t(spec.group_size));
  return py::make_tuple(array(rounded.codes, {rows, k}), array(rounded.scales, {rows, groups}),
                        spec.offsets ? py::object(array(rounded.offsets, {rows, groups})) : py::none(),
                        array(rounded.cost, {rows}), array(rounded.plain_cost, {rows}));
}

}  // namespace

void bind_calibrate(py::module_& m) {
  py::class_<MatrixReport>(m, "MatrixReport", checked_instances())
      .def_property_readonly("name", &MatrixReport::name_within_layer)
      .def_readonly("expert", &MatrixReport::expert)
      .def_readonly("tokens", &MatrixReport::tokens)
      .def_readonly("plain", &MatrixReport::plain)
      .def_readonly("cost", &MatrixReport::cost)
      .def_readonly("plain_cost", &MatrixReport::plain_cost)
      .def_property_readonly("error", [](const MatrixReport& report) { return error_tuple(report.error()); });
  // One thread calls it, but for weights_done and cancel().
  py::class_<Calibrator>(m, "Calibration", checked_instances())
      .def(py::init(&make_calibrator), py::arg("config"), py::arg("lengths"), py::arg("num_threads") = 0,
           py::kw_only(), py::arg("damping"), py::arg("importance"), py::arg("first_weight"),
           py::arg("fewest_tokens"))
      .def("begin", &Calibrator::begin, py::arg("layer"))
      .def("end", &Calibrator::end)
      .def("load_rows", &load_rows, py::arg("name"), py::arg("expert"), py::arg("rows"), py::arg("source"),
           py::arg("dtype"), py::arg("transposed"))
      .def("load_numbers", &load_numbers, py::arg("name"), py::arg("values"))
      .def("run", &run, py::arg("x").noconvert(), py::arg("grids"))
      .def("measure", &measure, py::arg("x").noconvert(), py::arg("candidates"))
      .def_property_readonly("weights_done", [](Calibrator& c) { return c.control().weights_done.load(); })
      .def("cancel", [](Calibrator& c) { c.control().cancelled = true; })
      .def("codes", &codes, py::arg("name"), py::arg("expert"), py::arg("rows"))
      .def("memory", &memory, py::arg("layer"));
  m.def("gram", &gram, py::arg("x"), py::arg("num_threads") = 0);
  m.def("round_weights", &round_weights, py::arg("w"), py::arg("h"), py::arg("importance"), py::arg("grid"),
        py::arg("damping"), py::arg("num_threads") = 0);
}

}  // namespace llama4rt
