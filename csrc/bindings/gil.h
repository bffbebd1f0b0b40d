// WithoutGil: native work without Python's global lock, and what becomes of it when the interpreter ends.
//
// A daemon thread that asks for the lock of an ended interpreter does not come back: CPython before 3.14 ends it by
// pthread_exit, which unwinds C++ frames and so calls std::terminate ("FATAL: exception not rethrown"); 3.14 hangs it
// with whatever it holds. An interrupt can keep every Python function from stopping such a thread first, atexit
// handlers included. So this module's own handler, native and therefore out of an interrupt's reach, closes a gate:
// from then on other threads cannot begin native work (Llama4RTError), and the interpreter goes on to its end
// only when the work in progress has come back.
#pragma once

#include <pybind11/pybind11.h>

namespace llama4rt {

class WithoutGil {
 public:
  WithoutGil();  // throws kInternal once the interpreter is ending; the lock is held then
  ~WithoutGil();
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

// Registers the handler. Once, when the module is made: handlers registered later run before it.
void close_gate_at_exit();

}  // namespace llama4rt
