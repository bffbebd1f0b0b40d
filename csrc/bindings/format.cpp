// The file classes of llama4rt._core: SafetensorsFile, EngineFile, EngineWriter. Arrays handed out are
// read-only views of the mapping that keep their file open; arrays taken in are read where they are.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/thread_pool.h"
#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "format/engine_file.h"
#include "format/engine_writer.h"
#include "format/safetensors.h"
#include "weights/layout.h"

namespace py = pybind11;

namespace llama4rt {
namespace {

using Int64Array = py::array_t<int64_t, py::array::c_style>;
using ByteArray = py::array_t<uint8_t, py::array::c_style>;

py::array read_only_view(std::span<const std::byte> bytes, const py::object& owner) {
  py::array view(py::dtype::of<uint8_t>(), {py::ssize_t(bytes.size())}, {py::ssize_t(1)}, bytes.data(),
                 owner);
  view.attr("setflags")(py::arg("write") = false);
  return view;
}

py::dict metadata_dict(const std::vector<std::pair<std::string, std::string>>& metadata) {
  py::dict out;
  for (const auto& [key, value] : metadata) out[py::str(key)] = value;
  return out;
}

std::vector<std::string> tensor_names(const std::vector<StoredTensor>& tensors) {
  std::vector<std::string> names;
  for (const StoredTensor& tensor : tensors) names.push_back(tensor.name);
  return names;
}

py::tuple tensor_info(const StoredTensor& tensor) {
  py::tuple shape(tensor.shape.size());
  for (size_t i = 0; i < tensor.shape.size(); ++i) shape[i] = tensor.shape[i];
  return py::make_tuple(std::string(tensor.dtype->name), shape, tensor.offset, tensor.bytes);
}

DType parse_dtype(const std::string& name) {
  const StoredDType* dtype = find_stored_dtype(name);
  LLAMA4RT_CHECK(kInternal, dtype && dtype->dtype, "unknown dtype \"", json::printable(name), "\"");
  return *dtype->dtype;
}

// --- EngineFile

py::dict weight_dict(const EngineFile& file, const std::string& name) {
  const Weight w = file.weight(name);
  py::dict out;
  out["kind"] = std::string(weight_kind_name(w.kind));
  out["layout"] = std::string(layout_name(w.layout));
  out["experts"] = w.num_experts;
  out["n"] = w.n;
  out["k"] = w.k;
  out["group_size"] = w.group_size;
  out["scale_dtype"] = std::string(dtype_name(w.scale_dtype));
  out["has_zeros"] = w.zeros != nullptr;
  out["has_offsets"] = w.offsets != nullptr;
  if (w.format().meaning == CodeMeaning::kTable)
    out["table"] = std::vector<int>(w.table.begin(), w.table.end());
  return out;
}

py::array_t<float> dequantize(const EngineFile& file, const std::string& name, int64_t expert, int64_t first,
                              std::optional<int64_t> last) {
  const Weight stack = file.weight(name);
  LLAMA4RT_CHECK(kRequest, expert >= 0 && expert < stack.num_experts, name, ": expert ", expert,
                 " is outside 0..", stack.num_experts - 1);
  const int64_t stop = last.value_or(stack.n);
  LLAMA4RT_CHECK(kRequest, first >= 0 && first <= stop && stop <= stack.n, name, " has no rows ", first,
                 " to ", stop, ": it has ", stack.n);
  py::array_t<float> out({stop - first, stack.k});
  float* const values = out.mutable_data();
  const WithoutGil no_gil;
  const Weight w = expert_view(stack, expert);
  ThreadPool(0).parallel_for(stop - first, 16, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      for (int64_t k = 0; k < w.k; ++k) values[n * w.k + k] = weight_value(w, first + n, k);
  });
  return out;
}

// --- EngineWriter

// source is [rows, columns], or [columns, rows] when transposed; any strides.
SourceMatrix source_matrix(const py::array& source, const std::string& dtype, bool transposed) {
  SourceMatrix matrix;
  matrix.dtype = parse_dtype(dtype);
  LLAMA4RT_CHECK(kInternal,
                 matrix.dtype == DType::kF32 || matrix.dtype == DType::kBF16 || matrix.dtype == DType::kF16,
                 "source dtype is ", dtype, "; F32, BF16 and F16 can be packed");
  LLAMA4RT_CHECK(kInternal, source.ndim() == 2, "source has ", source.ndim(), " dimensions; expected 2");
  LLAMA4RT_CHECK(kInternal, source.itemsize() == py::ssize_t(dtype_size(matrix.dtype)),
                 "source elements have ", source.itemsize(), " bytes; ", dtype, " has ",
                 dtype_size(matrix.dtype));
  const int row_axis = transposed ? 1 : 0;
  matrix.data = source.data();
  matrix.rows = source.shape(row_axis);
  matrix.columns = source.shape(1 - row_axis);
  matrix.row_bytes = source.strides(row_axis);
  matrix.column_bytes = source.strides(1 - row_axis);
  return matrix;
}

std::span<const int64_t> row_span(const Int64Array& rows) {
  LLAMA4RT_CHECK(kInternal, rows.ndim() == 1, "rows has ", rows.ndim(), " dimensions; expected 1");
  return {rows.data(), size_t(rows.size())};
}

void declare_weight(EngineWriter& writer, const std::string& name, const std::string& kind, int64_t experts,
                    int64_t n, int64_t k, int group_size, const std::string& scale_dtype, bool zeros,
                    bool offsets, const std::optional<std::vector<int>>& table) {
  Weight shape;
  shape.kind = weight_kind(kind);
  shape.num_experts = experts;
  shape.n = n;
  shape.k = k;
  shape.group_size = group_size;
  shape.scale_dtype = parse_dtype(scale_dtype);
  const bool needs_table = shape.format().meaning == CodeMeaning::kTable;
  LLAMA4RT_CHECK(kInternal, table.has_value() == needs_table, name, ": ", kind,
                 needs_table ? " needs a" : " has no", " table");
  if (table) {
    LLAMA4RT_CHECK(kInternal, table->size() == shape.table.size(), name, ": the table has ", table->size(),
                   " entries; expected ", shape.table.size());
    for (size_t i = 0; i < shape.table.size(); ++i) {
      const int entry = (*table)[i];
      LLAMA4RT_CHECK(kInternal, entry >= -128 && entry <= 127, name, ": table[", i, "] is ", entry,
                     "; it must be in -128..127");
      shape.table[i] = int8_t(entry);
    }
  }
  writer.declare_weight(name, shape, zeros, offsets);
}

void write_tensor(EngineWriter& writer, const std::string& name, const py::array& data) {
  const py::array dense = py::array::ensure(data, py::array::c_style);
  if (!dense) throw py::error_already_set();
  const std::span bytes(static_cast<const std::byte*>(dense.data()), size_t(dense.nbytes()));
  const WithoutGil no_gil;
  writer.write_tensor(name, bytes);
}

void quantize_rows(EngineWriter& writer, const std::string& name, int64_t expert, const Int64Array& rows,
                   const py::array& source, const std::string& dtype, bool transposed) {
  const SourceMatrix matrix = source_matrix(source, dtype, transposed);
  const auto stored = row_span(rows);
  const WithoutGil no_gil;
  writer.quantize_rows(name, expert, stored, matrix);
}

// An array [rows, columns] beside a weight's codes, contiguous, of elements of this size.
py::array side_array(const std::string& name, std::string_view what, const py::array& array, int64_t rows,
                     int64_t columns, size_t element) {
  const py::array dense = py::array::ensure(array, py::array::c_style);
  if (!dense) throw py::error_already_set();
  LLAMA4RT_CHECK(kInternal,
                 dense.ndim() == 2 && dense.shape(0) == rows && dense.shape(1) == columns &&
                     dense.itemsize() == py::ssize_t(element),
                 name, ": ", what, " must be [", rows, ", ", columns, "], ", element, " bytes each");
  return dense;
}

void import_rows(EngineWriter& writer, const std::string& name, int64_t expert, const Int64Array& rows,
                 const ByteArray& codes, const py::array& scales, const std::string& scale_dtype,
                 const std::optional<py::array>& zeros, const std::optional<py::array>& offsets,
                 const std::optional<py::array>& factors, const std::optional<py::array>& offset_factors) {
  Weight w = writer.declared_weight(name);
  w.scale_dtype = parse_dtype(scale_dtype);
  LLAMA4RT_CHECK(kInternal, codes.ndim() == 2 && codes.shape(1) == w.k, name, ": codes must be [n, ", w.k,
                 "]");
  std::array<py::array, kSides.size()> kept;  // arrays that had to be made contiguous
  const auto side = [&](Side which, const std::optional<py::array>& array) -> const void* {
    if (!array) return nullptr;
    py::array& dense = kept[size_t(which)];
    dense = side_array(name, kSides[size_t(which)].words, *array, codes.shape(0), side_columns(w, which),
                       dtype_size(side_dtype(w, which)));
    return dense.data();
  };
  const CodeRows source{
      .codes = codes.data(),
      .scales = side(Side::kScales, scales),
      .zeros = static_cast<const uint8_t*>(side(Side::kZeros, zeros)),
      .offsets = side(Side::kOffsets, offsets),
      .factors = static_cast<const float*>(side(Side::kFactors, factors)),
      .offset_factors = static_cast<const float*>(side(Side::kOffsetFactors, offset_factors)),
      .rows = codes.shape(0)};
  const auto stored = row_span(rows);
  const WithoutGil no_gil;
  writer.import_rows(name, expert, stored, source, w.scale_dtype);
}

// The error of a weight as Python keeps it: the sums, so that a resumed build reports what another would.
py::tuple error_sums(const PackError& error) {
  return py::make_tuple(error.squared, error.weight_squared, error.max_abs);
}

py::tuple complete(EngineWriter& writer, const std::string& name) {
  EngineWriter::Complete done;
  {
    const WithoutGil no_gil;
    done = writer.complete(name);
  }
  py::dict checksums;
  for (const auto& [tensor, hash] : done.checksums) checksums[py::str(tensor)] = hash;
  return py::make_tuple(checksums, error_sums(done.error));
}

bool restore(EngineWriter& writer, const std::string& name, const std::map<std::string, uint64_t>& checksums,
             const std::tuple<double, double, double>& error) {
  EngineWriter::Complete done;
  done.checksums.assign(checksums.begin(), checksums.end());
  std::tie(done.error.squared, done.error.weight_squared, done.error.max_abs) = error;
  const WithoutGil no_gil;
  return writer.restore(name, done);
}

uint64_t finish(EngineWriter& writer, const py::dict& metadata) {
  std::vector<std::pair<std::string, std::string>> entries;
  for (const auto& [key, value] : metadata)
    entries.emplace_back(py::cast<std::string>(key), py::cast<std::string>(value));
  const WithoutGil no_gil;
  return writer.finish(entries);
}

template <class File>
std::shared_ptr<File> open_file(const py::object& path) {
  const std::string file = file_path(path);
  const WithoutGil no_gil;
  return std::make_shared<File>(file);
}

void bind_safetensors(py::module_& m) {
  py::class_<SafetensorsFile, std::shared_ptr<SafetensorsFile>>(m, "SafetensorsFile", checked_instances())
      .def(py::init(&open_file<SafetensorsFile>), py::arg("path"))
      .def_property_readonly("metadata",
                             [](const SafetensorsFile& f) { return metadata_dict(f.header().metadata()); })
      .def("names", [](const SafetensorsFile& f) { return tensor_names(f.header().tensors()); })
      .def(
          "info",
          [](const SafetensorsFile& f, const std::string& name) { return tensor_info(f.tensor(name)); },
          py::arg("name"))
      .def(
          "raw",
          [](const py::object& self, const std::string& name) {
            const auto& f = self.cast<const SafetensorsFile&>();
            return read_only_view(f.bytes(f.tensor(name)), self);
          },
          py::arg("name"))
      .def(
          "release", [](const SafetensorsFile& f, const std::string& name) { f.release(f.tensor(name)); },
          py::arg("name"));
}

void bind_engine_file(py::module_& m) {
  py::class_<EngineFile, std::shared_ptr<EngineFile>>(m, "EngineFile", checked_instances())
      .def(py::init(&open_file<EngineFile>), py::arg("path"))
      .def_property_readonly("metadata", [](const EngineFile& f) { return metadata_dict(f.metadata()); })
      .def("names", [](const EngineFile& f) { return tensor_names(f.tensors()); })
      .def(
          "info", [](const EngineFile& f, const std::string& name) { return tensor_info(f.stored(name)); },
          py::arg("name"))
      .def(
          "raw",
          [](const py::object& self, const std::string& name) {
            const auto& f = self.cast<const EngineFile&>();
            return read_only_view(f.bytes(f.stored(name)), self);
          },
          py::arg("name"))
      .def("weight", &weight_dict, py::arg("name"))
      .def("dequantize", &dequantize, py::arg("name"), py::arg("expert") = 0, py::arg("first") = 0,
           py::arg("last") = py::none())
      .def("verify", &EngineFile::verify, py::arg("num_threads") = 0, py::call_guard<WithoutGil>());
}

std::shared_ptr<EngineWriter> make_writer(const py::object& path, int num_threads,
                                          const std::string& target) {
  const std::optional<Layout> layout = engine_format::layout_of_target(target);
  LLAMA4RT_CHECK(kConfig, layout, "target is \"", json::printable(target), "\"; cpu and cuda exist");
  return std::make_shared<EngineWriter>(file_path(path), num_threads, *layout);
}

void bind_engine_writer(py::module_& m) {
  py::class_<EngineWriter, std::shared_ptr<EngineWriter>>(m, "EngineWriter", checked_instances())
      .def(py::init(&make_writer), py::arg("path"), py::arg("num_threads") = 0, py::arg("target") = "cpu")
      .def("declare_tensor", &EngineWriter::declare_tensor, py::arg("name"), py::arg("dtype"),
           py::arg("shape"))
      .def("declare_weight", &declare_weight, py::arg("name"), py::arg("kind"), py::arg("experts"),
           py::arg("n"), py::arg("k"), py::arg("group_size") = 0, py::arg("scale_dtype") = "BF16",
           py::arg("zeros") = false, py::arg("offsets") = false, py::arg("table") = py::none())
      .def(
          "begin",
          [](EngineWriter& writer, bool resume) {
            return writer.begin(EngineWriter::kMetadataReserve, resume);
          },
          py::arg("resume") = false, py::call_guard<WithoutGil>())
      .def("complete", &complete, py::arg("name"))
      .def("restore", &restore, py::arg("name"), py::arg("checksums"), py::arg("error"))
      .def("write_tensor", &write_tensor, py::arg("name"), py::arg("data"))
      .def("quantize_rows", &quantize_rows, py::arg("name"), py::arg("expert"), py::arg("rows"),
           py::arg("source"), py::arg("dtype"), py::arg("transposed"))
      .def("import_rows", &import_rows, py::arg("name"), py::arg("expert"), py::arg("rows"), py::arg("codes"),
           py::arg("scales"), py::arg("scale_dtype"), py::arg("zeros") = py::none(),
           py::arg("offsets") = py::none(), py::arg("factors") = py::none(),
           py::arg("offset_factors") = py::none())
      .def(
          "report",
          [](const EngineWriter& writer, const std::string& name) {
            const PackError error = writer.report(name);
            return py::make_tuple(error.relative_rms(), error.max_abs);
          },
          py::arg("name"))
      .def("finish", &finish, py::arg("metadata"))
      .def("abort", &EngineWriter::abort, py::call_guard<WithoutGil>())
      .def("suspend", &EngineWriter::suspend, py::call_guard<WithoutGil>());
}

}  // namespace

WeightKind weight_kind(const std::string& name) {
  if (const std::optional<WeightKind> kind = find_weight_kind(name)) return *kind;
  throw Error(ErrorKind::kConfig,
              error_text("weights are \"", json::printable(name), "\"; ", weight_kind_names(), " exist"));
}

void bind_format(py::module_& m) {
  bind_safetensors(m);
  bind_engine_file(m);
  bind_engine_writer(m);
}

}  // namespace llama4rt
