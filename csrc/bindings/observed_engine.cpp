// ObservedEngine: an engine that runs one prompt at a time and shows a Python function what every op was given and
// what came out. For llama4rt diff. The GIL is held throughout: the function is called in the middle of a step.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/engine_options.h"
#include "model/shape.h"
#include "ops/observe.h"
#include "runtime/engine/engine.h"

namespace py = pybind11;

namespace llama4rt {
namespace {

// Calls the function after each op: (op, names of its weights, operands before it, outputs after it).
class PyObserver final : public OpsObserver {
 public:
  explicit PyObserver(py::function function) : function_(std::move(function)) {}

  void watch(Engine& engine) {
    device_ = &engine.device();
    const WeightSource& source = engine.weights();
    for (const TensorSpec& spec : model_tensors(engine.config())) {
      if (!source.has(spec.name)) continue;
      const void* const data =
          spec.is_plain() ? source.tensor(spec.name).data : source.weight(spec.name).data;
      names_[data] = spec.name;
    }
  }

  void before(const OpCall& call) override {
    guarded([&] {
      given_ = py::dict();
      for (const auto* operands : {&call.outputs, &call.inputs})
        for (const OpOperand& operand : *operands)
          if (operand.tensor) given_[operand.name] = to_array(operand.tensor);
    });
  }

  void after(const OpCall& call) override {
    guarded([&] {
      py::list weights;
      for (const Weight* w : call.weights) weights.append(name_of(w->data));
      for (const OpOperand& input : call.inputs)  // the gain of a norm, a bias
        if (input.tensor && names_.contains(input.tensor.data)) weights.append(name_of(input.tensor.data));
      py::dict results;
      for (const OpOperand& output : call.outputs) results[output.name] = to_array(output.tensor);
      function_(call.op, weights, std::exchange(given_, py::dict()), results);
    });
  }

  // What the function raised.
  void rethrow() {
    if (const std::exception_ptr raised = std::exchange(raised_, nullptr)) std::rethrow_exception(raised);
  }

 private:
  // An error of the function ends the step as any other does; its own words are kept for the caller.
  template <class Call>
  void guarded(const Call& call) {
    LLAMA4RT_CHECK(kInternal, !raised_, "the observer has failed");
    try {
      call();
    } catch (...) {
      raised_ = std::current_exception();
      throw;
    }
  }

  py::array to_array(const Tensor& t) const {
    std::vector<py::ssize_t> shape(t.shape.begin(), t.shape.begin() + t.rank);
    const char* const type = t.dtype == DType::kF32 ? "f4" : t.dtype == DType::kI32 ? "i4" : "i8";
    LLAMA4RT_CHECK(kInternal, t.dtype == DType::kF32 || t.dtype == DType::kI32 || t.dtype == DType::kI64,
                   "operands of type ", dtype_name(t.dtype), " are not shown");
    py::array out(py::dtype(type), shape);
    const size_t row_bytes = size_t(t.row_size()) * dtype_size(t.dtype);
    for (int64_t r = 0; r < t.size(0); ++r)
      device_->copy_to_host(static_cast<char*>(out.mutable_data()) + size_t(r) * row_bytes,
                            static_cast<const char*>(t.data) + size_t(r * t.stride0) * dtype_size(t.dtype),
                            row_bytes);
    return out;
  }
  std::string name_of(const void* data) const {
    const auto it = names_.find(data);
    return it == names_.end() ? "" : it->second;
  }

  const py::function function_;
  py::dict given_;
  Device* device_ = nullptr;
  std::unordered_map<const void*, std::string> names_;
  std::exception_ptr raised_;
};

class ObservedEngine {
 public:
  ObservedEngine(const std::string& path, EngineOptions options, py::function function)
      : observer_(std::move(function)) {
    options.observer = &observer_;
    engine_ = std::make_unique<Engine>(path, options);
    observer_.watch(*engine_);
  }

  // All of the prompt in one step: positions from 0, nothing in the cache before it.
  void run(const std::vector<int64_t>& ids) {
    Request request;
    request.prompt_token_ids = ids;
    request.return_logits = true;
    request.use_prefix_cache = false;
    engine_->submit(std::move(request));
    std::string error;
    while (engine_->has_work())
      for (const TokenEvent& event : engine_->step())
        if (event.finish_reason == "error") error = event.error;
    observer_.rethrow();
    LLAMA4RT_CHECK(kRequest, error.empty(), error);
  }

  void close() { engine_->close(); }
  const Engine& engine() const { return *engine_; }

 private:
  PyObserver observer_;  // outlives the engine
  std::unique_ptr<Engine> engine_;
};

}  // namespace

void bind_observed_engine(py::module_& m) {
  py::class_<ObservedEngine>(m, "ObservedEngine", checked_instances())
      .def(py::init([](const py::object& path, py::function observer, const py::kwargs& given) {
             return std::make_unique<ObservedEngine>(file_path(path), engine_options(given),
                                                     std::move(observer));
           }),
           py::arg("path"), py::arg("observer"))
      .def("run", &ObservedEngine::run, py::arg("token_ids"))
      .def_property_readonly("device", [](const ObservedEngine& e) { return e.engine().device_name(); })
      .def("close", &ObservedEngine::close);
}

}  // namespace llama4rt
