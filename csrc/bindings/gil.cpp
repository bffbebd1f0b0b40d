#include "bindings/gil.h"

#include <pthread.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>

#include "base/error.h"

namespace py = pybind11;

namespace llama4rt {
namespace {

// For a step of a large prompt on a CPU. Should work take longer still, its thread is held where it is, and the
// interpreter ends without it.
constexpr std::chrono::seconds kPatience(120);

struct Gate {
  std::mutex mutex;
  std::condition_variable came_back;
  int working = 0;    // threads without the lock
  int returning = 0;  // of those, the ones that wait for it
  bool closed = false;
  bool given_up = false;   // nobody may return any more
  std::thread::id ending;  // the thread that ends the interpreter
};

// Never destroyed: threads may use it until the process is gone.
Gate& gate() {
  alignas(Gate) static unsigned char memory[sizeof(Gate)];
  static Gate* const it = new (memory) Gate;
  return *it;
}

void close_gate() {
  PyThreadState* const state = PyEval_SaveThread();
  {
    std::unique_lock lock(gate().mutex);
    gate().closed = true;
    gate().ending = std::this_thread::get_id();
    if (!gate().came_back.wait_for(lock, kPatience, [] { return gate().working == 0; })) {
      gate().given_up = true;
      gate().came_back.wait(lock, [] { return gate().returning == 0; });
    }
  }
  PyEval_RestoreThread(state);
}

}  // namespace

WithoutGil::WithoutGil() {
  {
    const std::lock_guard lock(gate().mutex);
    LLAMA4RT_CHECK(kInternal, !gate().closed || gate().ending == std::this_thread::get_id(),
                   "the Python interpreter is ending; only the thread that ends it may call llama4rt now");
    ++gate().working;
  }
  state_ = PyEval_SaveThread();
}

WithoutGil::~WithoutGil() {
  {
    std::unique_lock lock(gate().mutex);
    if (gate().given_up && gate().ending != std::this_thread::get_id()) {
      lock.unlock();
      while (true) pause();
    }
    ++gate().returning;
  }
  PyEval_RestoreThread(state_);
  {
    const std::lock_guard lock(gate().mutex);
    --gate().returning;
    --gate().working;
  }
  gate().came_back.notify_all();
}

void close_gate_at_exit() {
  py::module_::import("atexit").attr("register")(py::cpp_function(&close_gate));
  // In a forked child the other threads do not exist, and who forks from Python is not in native work.
  pthread_atfork([] { gate().mutex.lock(); }, [] { gate().mutex.unlock(); }, [] { new (&gate()) Gate; });
}

}  // namespace llama4rt
