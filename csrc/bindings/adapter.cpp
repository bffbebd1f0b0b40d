// Adapter: factors from arrays of numpy, packed once.
#include "model/adapter.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/gil.h"

namespace py = pybind11;

namespace llama4rt {
namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Change = std::tuple<int64_t, std::string, py::array, py::array, double>;

// The arrays live as long as `changes` of the caller.
std::vector<Adapter::Change> read_changes(const std::vector<Change>& changes) {
  std::vector<Adapter::Change> out;
  for (const auto& [layer, matrix, a, b, scale] : changes) {
    LLAMA4RT_CHECK(
        kConfig,
        Floats::check_(a) && Floats::check_(b) && a.ndim() == 2 && b.ndim() == 2 && a.shape(0) == b.shape(1),
        "layers.", layer, ".attn.", matrix,
        ": factors must be C-contiguous float32 arrays [rank, in] and [out, rank]");
    out.push_back({.layer = layer,
                   .matrix = matrix,
                   .a = static_cast<const float*>(a.data()),
                   .b = static_cast<const float*>(b.data()),
                   .rank = a.shape(0),
                   .k = a.shape(1),
                   .n = b.shape(0),
                   .scale = scale});
  }
  return out;
}

std::shared_ptr<Adapter> make_adapter(const std::string& config, const std::vector<Change>& changes) {
  const std::vector<Adapter::Change> read = read_changes(changes);
  const ModelConfig model = ModelConfig::from_json(config);
  const WithoutGil unlocked;
  return std::make_shared<Adapter>(model, read);
}

}  // namespace

void bind_adapter(py::module_& m) {
  py::class_<Adapter, std::shared_ptr<Adapter>>(m, "Adapter", checked_instances())
      .def(py::init(&make_adapter), py::arg("config"), py::arg("changes"))
      .def_property_readonly("num_bytes", &Adapter::bytes)
      .def_property_readonly("num_users",  // beside this object: requests
                             [](const std::shared_ptr<Adapter>& adapter) { return adapter.use_count() - 2; })
      .def_property_readonly("digest", [](const Adapter& adapter) {
        const Sha256Digest& digest = adapter.digest();
        return py::bytes(reinterpret_cast<const char*>(digest.data()), digest.size());
      });
}

}  // namespace llama4rt
