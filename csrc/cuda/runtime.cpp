// csrc/cuda/runtime.h over cudart. With runtime_errors.cpp and tensor_map.cpp the only file of the project that includes
// CUDA's headers.
#include "cuda/runtime.h"

#include <cuda_runtime.h>

#include <chrono>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "base/error.h"
#include "cuda/runtime_errors.h"

namespace llama4rt::cuda {
namespace {

cudaStream_t raw(const Stream& s) { return static_cast<cudaStream_t>(s.handle()); }

// 13000 -> "13.0"
std::string version_text(int version) { return error_text(version / 1000, ".", version % 1000 / 10); }

// Longer than any step of the largest context; a kernel that hangs would be waited for without end.
constexpr int kHungSeconds = 600;

// Waits for what `query` asks after. Spins first: a step of one token ends within milliseconds.
template <class Query>
void wait_for_end(const Query& query, const char* what) {
  using std::chrono::steady_clock;
  const auto start = steady_clock::now();
  for (;;) {
    const cudaError_t status = query();
    if (status != cudaErrorNotReady) return check(status, what);
    const auto waited = steady_clock::now() - start;
    if (waited > std::chrono::seconds(kHungSeconds)) give_up_waiting(what, kHungSeconds);
    if (waited > std::chrono::milliseconds(20))
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    else
      std::this_thread::yield();
  }
}

// Attributes belong to a function on a device, not to a launch: they are set once, to what any launch may want, so that
// neither another engine's launches nor later ones than a recorded graph's change them.
//   shared memory: all that a block can have. Carve-out: all of it, always: multiprocessors that ran kernels with
//   another division have to be empty before they change it.
void set_attributes_once(const char* name, const void* kernel) {
  static std::mutex mutex;
  static std::set<std::pair<std::pair<int, int>, const void*>> done;
  const std::pair key(current_context(), kernel);
  const std::lock_guard lock(mutex);
  if (done.contains(key)) return;
  const int device = key.first.first;
  int most = 0;
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, kernel), name);
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "shared memory of a block");
  const int dynamic = most - int(attributes.sharedSizeBytes);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic), name);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared),
        name);
  done.insert(key);
}

// Other devices compile the PTX of sm_80, in which kernels have no wait for the kernel before.
bool current_device_runs_sm90_code() {
  int device = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device), "current device");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "compute capability");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "compute capability");
  return major == 9 && minor == 0;
}

}  // namespace

SystemInfo system_info() {
  SystemInfo info;
  (void)cudaDriverGetVersion(&info.driver);
  (void)cudaRuntimeGetVersion(&info.runtime);
  const cudaError_t status = cudaGetDeviceCount(&info.devices);
  if (status == cudaSuccess && info.devices > 0) return info;
  (void)cudaGetLastError();
  info.devices = 0;
  if (info.driver == 0)
    info.problem = "there is no NVIDIA driver on this machine (libcuda.so.1 was not found)";
  else if (status == cudaErrorInsufficientDriver)
    info.problem = error_text("the NVIDIA driver is too old: it supports CUDA ", version_text(info.driver),
                              ", this build needs ", version_text(info.runtime), "; update the driver");
  else if (status == cudaSuccess || status == cudaErrorNoDevice)
    info.problem =
        "there is an NVIDIA driver, but it shows no device; see nvidia-smi and CUDA_VISIBLE_DEVICES";
  else
    info.problem = error_text("the NVIDIA driver refuses to work: ", cudaGetErrorString(status));
  return info;
}

size_t free_memory() {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "free memory");
  return free;
}

DeviceInfo device_info(int device) {
  cudaDeviceProp p{};
  check(cudaGetDeviceProperties(&p, device), "device properties");
  const auto attribute = [device](cudaDeviceAttr name) {
    int value = 0;
    if (cudaDeviceGetAttribute(&value, name, device) != cudaSuccess) (void)cudaGetLastError();
    return value;
  };
  return {.name = p.name,
          .major = p.major,
          .minor = p.minor,
          .multiprocessors = p.multiProcessorCount,
          .memory = p.totalGlobalMem,
          .shared_per_block = p.sharedMemPerBlockOptin,
          .clock_khz = attribute(cudaDevAttrClockRate),
          .memory_clock_khz = attribute(cudaDevAttrMemoryClockRate),
          .memory_bus_bits = attribute(cudaDevAttrGlobalMemoryBusWidth)};
}

void set_device(int device) { check(cudaSetDevice(device), "set device"); }

Stream::Stream(bool overlap) {
  cudaStream_t s = nullptr;
  check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "create stream");
  handle_ = s;
  overlaps_ = overlap && current_device_runs_sm90_code();
}
Stream::~Stream() {
  if (loss() == Loss::kNone) (void)cudaStreamDestroy(raw(*this));
}
void Stream::synchronize() {
  wait_for_end([this] { return cudaStreamQuery(raw(*this)); }, "a kernel or copy failed");
}
void Stream::wait(const Event& event) {
  check(cudaStreamWaitEvent(raw(*this), static_cast<cudaEvent_t>(event.handle())), "wait for event");
}
void Stream::copy_to_device(void* dst, const void* src, size_t bytes) {
  check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, raw(*this)), "copy to the device");
}
void Stream::copy_to_host(void* dst, const void* src, size_t bytes) {
  check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, raw(*this)), "copy to the host");
}
void Stream::copy_on_device(void* dst, const void* src, size_t bytes) {
  check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, raw(*this)), "copy on the device");
}
void Stream::fill(void* dst, int byte, size_t bytes) {
  check(cudaMemsetAsync(dst, byte, bytes, raw(*this)), "fill");
}

Event::Event() {
  cudaEvent_t e = nullptr;
  check(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "create event");
  handle_ = e;
}
Event::~Event() {
  if (loss() == Loss::kNone) (void)cudaEventDestroy(static_cast<cudaEvent_t>(handle_));
}
void Event::record(Stream& stream) {
  check(cudaEventRecord(static_cast<cudaEvent_t>(handle_), raw(stream)), "record event");
}

void Event::synchronize() {
  wait_for_end([this] { return cudaEventQuery(static_cast<cudaEvent_t>(handle_)); },
               "a kernel or copy failed");
}

Graph::Graph(Stream& stream, const std::function<void()>& submit) {
  check(cudaStreamBeginCapture(raw(stream), cudaStreamCaptureModeThreadLocal), "begin capture");
  cudaGraph_t graph = nullptr;
  try {
    submit();
  } catch (...) {
    (void)cudaStreamEndCapture(raw(stream), &graph);
    if (graph) (void)cudaGraphDestroy(graph);
    throw;
  }
  check(cudaStreamEndCapture(raw(stream), &graph), "end capture");
  cudaGraphExec_t executable = nullptr;
  const size_t before = free_memory();
  cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  (void)cudaGraphDestroy(graph);
  check(status, "instantiate graph");
  handle_ = executable;
  // Its memory is taken here, and not by the first launch, so that it can be counted.
  status = cudaGraphUpload(executable, raw(stream));
  if (status != cudaSuccess) (void)cudaGraphExecDestroy(executable);
  check(status, "upload graph");
  const size_t after = free_memory();
  bytes_ = before > after ? before - after : 0;
}
Graph::~Graph() {
  if (loss() == Loss::kNone) (void)cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(handle_));
}
void Graph::launch(Stream& stream) {
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(handle_), raw(stream)), "launch graph");
}

void* device_malloc(size_t bytes) {
  void* p = nullptr;
  const cudaError_t status = cudaMalloc(&p, bytes);
  if (is_sticky(status)) check(status, "memory");
  if (status != cudaSuccess) {
    (void)cudaGetLastError();  // the next call may succeed
    throw Error(ErrorKind::kInternal,
                error_text("out of memory: the device refused ", bytes, " bytes and has ", free_memory(),
                           " free (", cudaGetErrorString(status), ")"));
  }
  return p;
}
void device_free(void* p) noexcept {
  if (loss() == Loss::kNone) (void)cudaFree(p);
}
void* pinned_malloc(size_t bytes) {
  void* p = nullptr;
  check(cudaMallocHost(&p, bytes), "pinned memory");
  return p;
}
void pinned_free(void* p) noexcept {
  if (loss() == Loss::kNone) (void)cudaFreeHost(p);
}

void launch_raw(const char* name, const void* kernel, const LaunchShape& shape, Stream& stream,
                void** arguments) {
  set_attributes_once(name, kernel);
  const dim3 grid(unsigned(shape.grid_x), unsigned(shape.grid_y), unsigned(shape.grid_z));
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(unsigned(shape.threads));
  config.dynamicSmemBytes = shape.dynamic_shared;
  config.stream = raw(stream);
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = stream.overlaps() && !shape.alone ? 1 : 0;
  check(cudaLaunchKernelExC(&config, kernel, arguments), name);
}

}  // namespace llama4rt::cuda
