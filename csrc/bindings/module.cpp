// llama4rt._core: the module itself, its exceptions, and what the build and the machine are.
#include <pthread.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <string_view>

#include "base/device_lost.h"
#include "base/error.h"
#include "base/json_shape.h"
#include "base/thread_pool.h"
#include "base/xxhash.h"
#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "cpu/dispatch.h"
#include "cuda/cuda_system.h"
#include "runtime/plan/memory_limit.h"

namespace py = pybind11;

namespace llama4rt {
namespace {

// A message may name a file whose name is no UTF-8; PyErr_SetString would fail on it.
void raise_error(PyObject* type, const std::string& message) {
  PyObject* const text = PyUnicode_DecodeUTF8(message.data(), Py_ssize_t(message.size()), "backslashreplace");
  if (!text) return;  // out of memory, which is raised instead
  PyErr_SetObject(type, text);
  Py_DECREF(text);
}

// The Python classes, by ErrorKind and DeviceLost. They live as long as the process: an exception may be raised at any time.
struct ExceptionClasses {
  PyObject* base = nullptr;
  PyObject* engine_file = nullptr;
  PyObject* config = nullptr;
  PyObject* checkpoint = nullptr;
  PyObject* request = nullptr;
  PyObject* device_lost = nullptr;
};
ExceptionClasses classes;

// People see and pickle "llama4rt.ConfigError"; the package re-exports these names.
PyObject* add_exception(py::module_& m, const char* name, const char* doc, PyObject* bases) {
  PyObject* type = PyErr_NewExceptionWithDoc((std::string("llama4rt.") + name).c_str(), doc, bases, nullptr);
  if (!type) throw py::error_already_set();
  m.add_object(name, py::handle(type));
  return type;
}

PyObject* python_class(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kEngineFile:
      return classes.engine_file;
    case ErrorKind::kConfig:
      return classes.config;
    case ErrorKind::kCheckpoint:
      return classes.checkpoint;
    case ErrorKind::kRequest:
      return classes.request;
    case ErrorKind::kInternal:
      break;
  }
  return classes.base;
}

void add_exceptions(py::module_& m) {
  classes.base = add_exception(m, "Llama4RTError", "Base class of all errors of llama4rt.", PyExc_Exception);
  const py::tuple also_value_error = py::make_tuple(py::handle(classes.base), py::handle(PyExc_ValueError));
  classes.engine_file =
      add_exception(m, "EngineFileError",
                    "The engine file is damaged, truncated, hostile or of another version.", classes.base);
  classes.checkpoint =
      add_exception(m, "CheckpointError", "The source checkpoint is incomplete or malformed.", classes.base);
  classes.config = add_exception(m, "ConfigError", "A model config or an engine option is impossible.",
                                 also_value_error.ptr());
  classes.request =
      add_exception(m, "RequestError", "One request asks for something invalid.", also_value_error.ptr());
  classes.device_lost = add_exception(
      m, "DeviceLostError", "The device failed and computes nothing more for this process.", classes.base);
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const DeviceLost& e) {
      raise_error(classes.device_lost, e.what());
    } catch (const Error& e) {
      raise_error(python_class(e.kind()), e.what());
    } catch (const std::runtime_error& e) {
      // pybind11_fail of pybind11's own wrappers: "Could not allocate bytes object!"
      if (std::string_view(e.what()).substr(0, 18) != "Could not allocate") throw;
      PyErr_NoMemory();
    }
  });
}

py::dict build_info() {
  py::dict info;
  info["version"] = LLAMA4RT_VERSION;
#if defined(__clang__)
  info["compiler"] = "clang " __clang_version__;
#else
  info["compiler"] = "gcc " __VERSION__;
#endif
  info["cpu_isas"] = cpu::supported_isas();
  info["selected_isa"] = cpu::select_kernels().isa;
  info["cuda"] = cuda_built();
#ifdef LLAMA4RT_ASSERTS
  info["asserts"] = true;
#else
  info["asserts"] = false;
#endif
  return info;
}

// What top, gdb and /proc call the calling thread: at most 15 bytes.
void name_thread(const std::string& name) { pthread_setname_np(pthread_self(), name.substr(0, 15).c_str()); }

// What `llama4rt doctor` says of GPUs.
py::dict cuda_dict() {
  CudaSystem system;
  {
    const WithoutGil no_gil;
    system = find_cuda();
  }
  py::list devices;
  for (const CudaDeviceInfo& d : system.devices) {
    py::dict device;
    device["name"] = d.name;
    device["compute_capability"] = py::make_tuple(d.major, d.minor);
    device["multiprocessors"] = d.multiprocessors;
    device["memory"] = d.memory;
    device["peak_gbps"] = d.peak_gbps;
    device["peak_tflops"] = d.peak_tflops;
    device["problem"] = d.problem;
    devices.append(device);
  }
  py::dict out;
  out["built"] = system.built;
  out["driver"] = system.driver;
  out["runtime"] = system.runtime;
  out["problem"] = system.problem;
  out["devices"] = devices;
  return out;
}

uint64_t hash_buffer(const py::object& data, uint64_t seed) {
  Py_buffer view;
  if (PyObject_GetBuffer(data.ptr(), &view, PyBUF_SIMPLE) != 0) throw py::error_already_set();
  uint64_t hash = 0;
  {
    const WithoutGil no_gil;
    hash = xxh64(view.buf, size_t(view.len), seed);
  }
  PyBuffer_Release(&view);
  return hash;
}

// (depth, objects, values, text, [(key with its quotes, begin and end of the value), ...]) of json::Shape.
py::tuple json_shape(const py::bytes& data, size_t max_members) {
  const std::string_view text = data;
  json::Shape shape;
  {
    const py::gil_scoped_release no_gil;
    shape = json::shape_of(text, max_members);
  }
  py::list members;
  for (const json::Member& m : shape.members)
    members.append(py::make_tuple(py::bytes(text.data() + m.key_begin, m.key_end - m.key_begin),
                                  m.value_begin, m.value_end));
  return py::make_tuple(shape.depth, shape.objects, shape.values, shape.text, members);
}

}  // namespace

namespace {

PyObject* allocate_or_throw(PyTypeObject* type, Py_ssize_t items) {
  PyObject* const self = PyType_GenericAlloc(type, items);
  if (!self) throw py::error_already_set();
  return self;
}

}  // namespace

py::custom_type_setup checked_instances() {
  return py::custom_type_setup([](PyHeapTypeObject* type) { type->ht_type.tp_alloc = &allocate_or_throw; });
}

std::string file_path(const py::object& path) {
  PyObject* bytes = nullptr;
  if (!PyUnicode_FSConverter(path.ptr(), &bytes)) {
    if (!PyErr_ExceptionMatches(PyExc_ValueError)) throw py::error_already_set();
    PyErr_Clear();
    throw Error(ErrorKind::kEngineFile, "the path holds NUL, or characters that no file's name can have");
  }
  return std::string(py::reinterpret_steal<py::bytes>(bytes));
}

}  // namespace llama4rt

namespace {

constexpr const char* kSubInterpreter =
    "llama4rt works in the main interpreter only, and this is a sub-interpreter; use threads or processes";

bool in_main_interpreter() { return PyInterpreterState_Get() == PyInterpreterState_Main(); }

}  // namespace

// PyInit__core() below is what Python finds; pybind11's own function is called from there. Before Python 3.12
// its first act in a sub-interpreter is to wait for the lock that its own thread holds, for ever.
PYBIND11_MODULE(_core_in_main, m) {
  using namespace llama4rt;
  // From 3.12 on it gets as far as this: an init function runs in the main interpreter, whoever imports.
  if (!in_main_interpreter()) throw py::import_error(kSubInterpreter);
  m.doc() = "The native module of llama4rt. People use llama4rt.Engine and llama4rt.build.";
  add_exceptions(m);
  close_gate_at_exit();
  m.def("version", [] { return LLAMA4RT_VERSION; });
  m.def("build_info", &build_info);
  m.def("find_cuda", &cuda_dict);
  m.def("name_thread", &name_thread, py::arg("name"));
  m.def("available_memory", &available_memory);
  m.def("available_cpus", &available_cpus);
  m.def("xxh64", &hash_buffer, py::arg("data"), py::arg("seed") = 0);
  m.def("json_shape", &json_shape, py::arg("data"), py::arg("max_members"));
  bind_format(m);
  bind_adapter(m);
  bind_requests(m);
  bind_engine(m);
  bind_ops(m);
  bind_observed_engine(m);
  bind_quality(m);
  bind_calibrate(m);
}

extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
  if (in_main_interpreter()) return PyInit__core_in_main();
  PyErr_SetString(PyExc_ImportError, kSubInterpreter);
  return nullptr;
}
