// What measures quality: logits of two models compared row by row.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "runtime/sampling/row_divergence.h"

namespace py = pybind11;

namespace llama4rt {
namespace {

using Logits = py::array_t<float, py::array::c_style>;  // no forcecast: nobody copies gigabytes unawares
using Tokens = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

Tensor rows_view(const Logits& logits, const char* name) {
  LLAMA4RT_CHECK(kRequest, logits.ndim() == 2, name, " has ", logits.ndim(), " dimensions; expected 2");
  return Tensor(const_cast<float*>(logits.data()), DType::kF32, {logits.shape(0), logits.shape(1)});
}

template <class Element, class Get>
py::array_t<Element> column(const std::vector<RowDivergence>& rows, const Get& get) {
  py::array_t<Element> out(py::ssize_t(rows.size()));
  for (size_t r = 0; r < rows.size(); ++r) out.mutable_data()[r] = get(rows[r]);
  return out;
}

py::dict compare(const Logits& p, const Logits& q, const Tokens& next, int num_threads) {
  const Tensor p_rows = rows_view(p, "p"), q_rows = rows_view(q, "q");
  LLAMA4RT_CHECK(kRequest, next.ndim() == 1, "next has ", next.ndim(), " dimensions; expected 1");
  const std::span<const int32_t> tokens(next.data(), size_t(next.size()));
  std::vector<RowDivergence> rows;
  {
    const WithoutGil no_gil;
    rows = compare_logits(p_rows, q_rows, tokens, num_threads);
  }
  py::dict out;
  out["divergence"] = column<double>(rows, [](const RowDivergence& r) { return r.divergence; });
  out["p_logprob"] = column<float>(rows, [](const RowDivergence& r) { return r.p_logprob; });
  out["q_logprob"] = column<float>(rows, [](const RowDivergence& r) { return r.q_logprob; });
  out["p_best"] = column<int32_t>(rows, [](const RowDivergence& r) { return r.p_best; });
  out["q_best"] = column<int32_t>(rows, [](const RowDivergence& r) { return r.q_best; });
  out["finite"] = column<bool>(rows, [](const RowDivergence& r) { return r.finite; });
  return out;
}

}  // namespace

void bind_quality(py::module_& m) {
  m.def("compare_logits", &compare, py::arg("p"), py::arg("q"), py::arg("next"), py::arg("num_threads") = 0);
}

}  // namespace llama4rt
