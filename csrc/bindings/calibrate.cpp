// Calibration: one layer after the other, from the rows of a checkpoint to codes. And its arithmetic alone, for tests.
#include "bindings/bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/gil.h"
#include "calibrate/rounding_pass.h"
#include "cpu/cpu_device.h"
#include "cpu/dispatch.h"

namespace py = pybind11;

namespace llama4rt {
namespace {

using FloatArray = py::array_t<float, py::array::c_style>;
using Int64Array = py::array_t<int64_t, py::array::c_style>;
using calibrate::GridSpec;

const std::string kPrefix = "layers.0.";  // of names in the model of one layer

// (kind, group_size, offsets, scale_dtype)
using GridTuple = std::tuple<std::string, int, bool, std::string>;

GridSpec grid_spec(const GridTuple& grid) {
  const auto& [kind, group_size, offsets, scale_dtype] = grid;
  GridSpec spec{.kind = weight_kind(kind), .group_size = group_size, .offsets = offsets};
  LLAMA4RT_CHECK(kConfig, spec.kind == WeightKind::kInt4 || spec.kind == WeightKind::kInt8,
                 "calibration makes int4 and int8, not ", kind);
  LLAMA4RT_CHECK(kConfig, valid_group_size(group_size), "group_size is ", group_size, "; it must be ",
                 group_size_names());
  LLAMA4RT_CHECK(kInternal, scale_dtype == "BF16" || scale_dtype == "F32", "scales are BF16 or F32, not ", scale_dtype);
  spec.scale_dtype = scale_dtype == "BF16" ? DType::kBF16 : DType::kF32;
  return spec;
}

std::span<const int64_t> row_span(const Int64Array& rows) { return {rows.data(), size_t(rows.size())}; }

// Python calls it from one thread, but for progress() and cancel().
class Calibration {
 public:
  Calibration(const std::string& config, std::vector<int64_t> lengths, int num_threads, float damping,
              float importance, int64_t fewest_tokens)
      : config_(ModelConfig::from_json(config)),
        lengths_(std::move(lengths)),
        num_threads_(num_threads),
        options_{.damping = damping, .importance = importance, .fewest_tokens = fewest_tokens},
        pool_(num_threads) {
    LLAMA4RT_CHECK(kConfig, !lengths_.empty(), "there is no text to calibrate with");
    for (const int64_t length : lengths_)
      LLAMA4RT_CHECK(kConfig, length > 0 && (config_.attention_chunk_size == 0 || length <= config_.attention_chunk_size),
                     "a calibration text of ", length, " tokens; it must be within an attention chunk");
  }

  void begin(int layer) {
    store_.reset();  // first: two layers might not fit
    reports_.clear();
    store_ = std::make_unique<calibrate::LayerStore>(config_, layer);
    control_.weights_done = 0;
    control_.cancelled = false;
  }
  void end() { store_.reset(); }

  void load_rows(const std::string& name, int64_t expert, const Int64Array& rows, const py::array& source,
                 const std::string& dtype, bool transposed) {
    const SourceMatrix matrix = source_matrix(source, dtype, transposed);
    const auto stored = row_span(rows);
    const WithoutGil no_gil;
    store().matrix(kPrefix + name).pack(expert, stored, matrix, pool_, name);
  }
  void load_numbers(const std::string& name, const FloatArray& values) {
    const std::span<float> numbers = store().numbers(kPrefix + name);
    LLAMA4RT_CHECK(kInternal, values.size() == py::ssize_t(numbers.size()), name, ": has ", numbers.size(),
                   " numbers, not ", values.size());
    std::copy_n(values.data(), values.size(), numbers.begin());
  }

  const std::vector<calibrate::MatrixReport>& run(FloatArray x, const std::map<std::string, GridTuple>& grids) {
    std::map<std::string, GridSpec> specs;
    for (const auto& [name, grid] : grids) specs.emplace(kPrefix + name, grid_spec(grid));
    LLAMA4RT_CHECK(kInternal, x.ndim() == 2, "the residual stream has ", x.ndim(), " dimensions; expected 2");
    const Tensor stream(x.mutable_data(), DType::kF32, {x.shape(0), x.shape(1)});
    const WithoutGil no_gil;
    calibrate::RoundingPass pass(store(), std::move(specs), options_, cpu::select_kernels(), pool_, control_);
    calibrate::run_layer(store(), stream, lengths_, make_cpu_device({.num_threads = num_threads_}), pass);
    reports_ = pass.reports();
    return reports_;
  }
  int64_t weights_done() const { return control_.weights_done; }
  void cancel() { control_.cancelled = true; }

  // (codes [rows, k], scales and offsets [rows, groups] as fp32, offsets None without; sums of the rows' error)
  py::tuple codes(const std::string& name, int64_t expert, const Int64Array& rows) {
    const calibrate::Matrix& matrix = store().matrix(kPrefix + name);
    const Weight& w = matrix.view();
    LLAMA4RT_CHECK(kInternal, w.quantized(), name, ": has no codes");
    py::array_t<uint8_t> codes({rows.size(), py::ssize_t(w.k)});
    FloatArray scales({rows.size(), py::ssize_t(w.num_groups())});
    FloatArray offsets({w.offsets ? rows.size() : 0, py::ssize_t(w.num_groups())});
    const auto stored = row_span(rows);
    uint8_t* const to = codes.mutable_data();
    float *const s = scales.mutable_data(), *const o = offsets.mutable_data();
    {
      const WithoutGil no_gil;
      matrix.read_codes(to, s, o, expert, stored, pool_);
    }
    PackError error;
    for (const calibrate::MatrixReport& report : reports_)
      if (report.name == kPrefix + name && report.expert == expert)
        for (const int64_t row : stored) error.add(report.errors[size_t(row)]);
    return py::make_tuple(codes, scales, w.offsets ? py::object(offsets) : py::none(),
                          py::make_tuple(error.squared, error.weight_squared, error.max_abs));
  }

  // Bytes that a layer takes at most: its own weights, what it becomes, activations, keys and values.
  py::dict memory(int layer) const {
    const calibrate::PassMemory pass = calibrate::pass_memory(config_, layer, lengths_);
    py::dict out;
    out["activations"] = pass.activations;
    out["cache"] = pass.cache;
    return out;
  }

 private:
  calibrate::LayerStore& store() const {
    LLAMA4RT_CHECK(kInternal, store_, "no layer is loaded");
    return *store_;
  }

  const ModelConfig config_;
  const std::vector<int64_t> lengths_;
  const int num_threads_;
  const calibrate::RoundingOptions options_;
  ThreadPool pool_;
  calibrate::PassControl control_;
  std::unique_ptr<calibrate::LayerStore> store_;
  std::vector<calibrate::MatrixReport> reports_;  // of the layer
};

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
py::tuple round_weights(const FloatArray& w, const FloatArray& h, const FloatArray& importance, const GridTuple& grid,
                        float damping, int num_threads) {
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
  using calibrate::MatrixReport;
  py::class_<MatrixReport>(m, "MatrixReport", checked_instances())
      .def_property_readonly("name", [](const MatrixReport& r) { return r.name.substr(kPrefix.size()); })
      .def_readonly("expert", &MatrixReport::expert)
      .def_readonly("tokens", &MatrixReport::tokens)
      .def_readonly("plain", &MatrixReport::plain)
      .def_readonly("cost", &MatrixReport::cost)
      .def_readonly("plain_cost", &MatrixReport::plain_cost)
      .def_property_readonly("error", [](const MatrixReport& r) {
        const PackError error = r.error();
        return py::make_tuple(error.squared, error.weight_squared, error.max_abs);
      });
  py::class_<Calibration>(m, "Calibration", checked_instances())
      .def(py::init<std::string, std::vector<int64_t>, int, float, float, int64_t>(), py::arg("config"),
           py::arg("lengths"), py::arg("num_threads") = 0, py::arg("damping"), py::arg("importance"),
           py::arg("fewest_tokens"))
      .def("begin", &Calibration::begin, py::arg("layer"))
      .def("end", &Calibration::end)
      .def("load_rows", &Calibration::load_rows, py::arg("name"), py::arg("expert"), py::arg("rows"),
           py::arg("source"), py::arg("dtype"), py::arg("transposed"))
      .def("load_numbers", &Calibration::load_numbers, py::arg("name"), py::arg("values"))
      .def("run", &Calibration::run, py::arg("x").noconvert(), py::arg("grids"))
      .def_property_readonly("weights_done", &Calibration::weights_done)
      .def("cancel", &Calibration::cancel)
      .def("codes", &Calibration::codes, py::arg("name"), py::arg("expert"), py::arg("rows"))
      .def("memory", &Calibration::memory, py::arg("layer"));
  m.def("gram", &gram, py::arg("x"), py::arg("num_threads") = 0);
  m.def("round_weights", &round_weights, py::arg("w"), py::arg("h"), py::arg("importance"), py::arg("grid"),
        py::arg("damping"), py::arg("num_threads") = 0);
}

}  // namespace llama4rt
