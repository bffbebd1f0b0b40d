#include "simt_emulator/host_runtime.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <vector>

#include "base/error.h"
#include "simt_emulator/checker.h"
#include "simt_emulator/device_memory.h"
#include "simt_emulator/launch_names.h"
#include "simt_emulator/shared_memory.h"

namespace llama4rt::simt {
namespace {

struct EventState {
  int64_t submitted = 0;  // how many records were asked for
  int64_t reached = 0;    // and how many of them have run
};

struct Operation {
  std::function<void()> run;
  std::function<bool()> ready = {};           // empty: always
  std::shared_ptr<const Launch> launch = {};  // of a kernel; `run` is empty then
  bool is_copy = true;                        // or a fill: the next kernel starts behind it
};

struct StreamState {
  std::deque<Operation> queue;
  std::vector<Operation>* capture = nullptr;  // where work goes while a graph is recorded
  OverlappedBlocks running;                   // kernels that the next one may overlap with
};

std::vector<StreamState*>& streams() {
  static std::vector<StreamState*> all;
  return all;
}

StreamState& state(const cuda::Stream& s) { return *static_cast<StreamState*>(s.handle()); }

void submit(const cuda::Stream& stream, Operation op) {
  StreamState& s = state(stream);
  if (s.capture)
    s.capture->push_back(std::move(op));
  else
    s.queue.push_back(std::move(op));
}

bool can_run(const StreamState& s) {
  return !s.queue.empty() && (!s.queue.front().ready || s.queue.front().ready());
}

OtherExecutor* other = nullptr;

void note_host_wrote(const void* p, size_t bytes) {
  checker::host_wrote(p, bytes);
  if (other) other->host_wrote(p, bytes);
}

// Runs `first` and the launches behind it with nothing between.
void run_elsewhere(const Operation& first, StreamState& s) {
  std::vector<std::shared_ptr<const Launch>> launches = {first.launch};
  while (!s.queue.empty() && s.queue.front().launch) {
    launches.push_back(s.queue.front().launch);
    s.queue.pop_front();
  }
  other->run(launches);
}

// Runs queued work of all streams until `done`.
void drain_until(const std::function<bool()>& done) {
  const HeapAccess open;
  while (!done()) {
    std::vector<StreamState*> candidates;
    for (StreamState* s : streams())
      if (can_run(*s)) candidates.push_back(s);
    LLAMA4RT_CHECK(kInternal, !candidates.empty(), "every stream waits for an event that nothing will reach");
    StreamState& s = *candidates[random_below(candidates.size())];
    const Operation op = std::move(s.queue.front());
    s.queue.pop_front();
    try {
      if (op.launch) {
        if (other)
          run_elsewhere(op, s);
        else
          run_grid(*op.launch, s.running);
        continue;
      }
      op.run();
      if (op.is_copy) s.running = {};
    } catch (...) {
      for (StreamState* each : streams()) each->queue.clear();  // as after a sticky error
      throw;
    }
  }
}

// Until `wanted` has none left.
void drain(StreamState& wanted) {
  drain_until([&] { return wanted.queue.empty(); });
}

}  // namespace

namespace {
bool drops_launches = false;
}
DroppedLaunches::DroppedLaunches() { drops_launches = true; }
DroppedLaunches::~DroppedLaunches() { drops_launches = false; }

void use_executor(OtherExecutor* executor) { other = executor; }
void as_if_a_kernel_wrote(const void* p, size_t bytes) {
  checker::as_if_a_kernel_wrote(p, bytes);
  if (other) other->kernel_before_wrote(p, bytes);
}

namespace {
LaunchNames* launch_names = nullptr;
}
LaunchNames::LaunchNames() { launch_names = this; }
LaunchNames::~LaunchNames() { launch_names = nullptr; }
void note_launch(const std::string& name) {
  if (launch_names) launch_names->names_.push_back(name);
}

void enqueue_launch(cuda::Stream& stream, std::shared_ptr<Launch> launch) {
  note_launch(launch->name);
  if (drops_launches) return;
  launch->overlaps = launch->overlaps && stream.overlaps();
  submit(stream, {.run = {}, .launch = std::move(launch)});
}

}  // namespace llama4rt::simt

namespace llama4rt::cuda {

using simt::submit;

SystemInfo system_info() { return {.driver = 13000, .runtime = 13000, .devices = 1, .problem = {}}; }
DeviceInfo device_info(int) {
  return {.name = simt::other ? "the PTX executor" : "emulated sm_90",
          .major = simt::other ? simt::other->compute_major() : 9,
          .minor = 0,
          .multiprocessors = 4,
          .memory = size_t(8) << 30,
          .shared_per_block = simt::kSharedBytes};
}
void set_device(int device) { LLAMA4RT_CHECK(kInternal, device == 0, "cuda:", device, " does not exist"); }
size_t free_memory() { return device_info(0).memory - simt::device_bytes_in_use(); }

Stream::Stream(bool overlap) {
  auto* s = new simt::StreamState;
  simt::streams().push_back(s);
  handle_ = s;
  overlaps_ = overlap && (!simt::other || simt::other->compute_major() == 9);
}
Stream::~Stream() {
  std::erase(simt::streams(), static_cast<simt::StreamState*>(handle_));
  delete static_cast<simt::StreamState*>(handle_);
}
void Stream::synchronize() {
  LLAMA4RT_CHECK(kInternal, !simt::state(*this).capture, "a stream is synchronised while it is captured");
  simt::drain(simt::state(*this));
}
void Stream::wait(const Event& event) {
  const auto* e = static_cast<const simt::EventState*>(event.handle());
  submit(*this,
         {.run = [] {}, .ready = [e, goal = e->submitted] { return e->reached >= goal; }, .is_copy = false});
}
// An empty copy may name no memory at all, as the real runtime allows; memcpy would not.
void Stream::copy_to_device(void* dst, const void* src, size_t bytes) {
  if (bytes == 0) return;
  submit(*this, {.run = [=] {
    simt::live_allocation(dst, bytes, "copy to the device");
    std::memcpy(dst, src, bytes);
    simt::note_host_wrote(dst, bytes);
  }});
}
void Stream::copy_to_host(void* dst, const void* src, size_t bytes) {
  if (bytes == 0) return;
  submit(*this, {.run = [=] {
    simt::live_allocation(src, bytes, "copy to the host");
    std::memcpy(dst, src, bytes);
  }});
}
void Stream::copy_on_device(void* dst, const void* src, size_t bytes) {
  if (bytes == 0) return;
  submit(*this, {.run = [=] {
    simt::live_allocation(src, bytes, "copy on the device");
    simt::live_allocation(dst, bytes, "copy on the device");
    std::memmove(dst, src, bytes);
    simt::note_host_wrote(dst, bytes);
  }});
}
void Stream::fill(void* dst, int byte, size_t bytes) {
  if (bytes == 0) return;
  submit(*this, {.run = [=] {
    simt::live_allocation(dst, bytes, "fill");
    std::memset(dst, byte, bytes);
    simt::note_host_wrote(dst, bytes);
  }});
}

Event::Event() : handle_(new simt::EventState) {}
Event::~Event() { delete static_cast<simt::EventState*>(handle_); }
void Event::record(Stream& stream) {
  auto* e = static_cast<simt::EventState*>(handle_);
  submit(stream, {.run = [e, number = ++e->submitted] { e->reached = std::max(e->reached, number); },
                  .is_copy = false});
}

void Event::synchronize() {
  const auto* e = static_cast<const simt::EventState*>(handle_);
  simt::drain_until([e, goal = e->submitted] { return e->reached >= goal; });
}

DeviceUse::DeviceUse(int device) : device_(device) {}
DeviceUse::~DeviceUse() = default;

Graph::Graph(Stream& stream, const std::function<void()>& record) {
  auto* operations = new std::vector<simt::Operation>;
  handle_ = operations;
  simt::state(stream).capture = operations;
  try {
    record();
  } catch (...) {
    simt::state(stream).capture = nullptr;
    delete operations;
    throw;
  }
  simt::state(stream).capture = nullptr;
}
Graph::~Graph() { delete static_cast<std::vector<simt::Operation>*>(handle_); }
void Graph::launch(Stream& stream) {
  for (const simt::Operation& op : *static_cast<std::vector<simt::Operation>*>(handle_)) submit(stream, op);
}

void* device_malloc(size_t bytes) { return simt::device_allocate(bytes); }
void device_free(void* p) noexcept { simt::device_free(p); }
void* pinned_malloc(size_t bytes) { return std::malloc(bytes); }
void pinned_free(void* p) noexcept { std::free(p); }

void launch_raw(const char* name, const void*, const LaunchShape&, Stream&, void**) {
  throw Error(ErrorKind::kInternal, error_text(name, ": launch_raw is not for the emulator"));
}

}  // namespace llama4rt::cuda
