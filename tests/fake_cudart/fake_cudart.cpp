#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "cuda_runtime.h"

namespace fake_cuda {

int State::count(const std::string& name) const { return int(std::count(calls.begin(), calls.end(), name)); }

State& state() {
  static State s;
  return s;
}
void State::free_everything() {
  for (FakeHandle* handle : handles) delete handle;
  for (void* pointer : memory) std::free(pointer);
  handles.clear();
  memory.clear();
}
void reset() {
  state().free_everything();
  state() = {};
}

cudaError_t called(const char* name) {
  State& s = state();
  s.calls.emplace_back(name);
  if (s.sticky != cudaSuccess && std::strcmp(name, "cudaGetDevice") != 0) return s.sticky;
  const auto failing = s.fails.find(name);
  if (failing == s.fails.end()) return cudaSuccess;
  const cudaError_t error = failing->second;
  s.fails.erase(failing);
  return error;
}

namespace {
// A new handle, or null.
cudaError_t make(const char* name, FakeHandle** handle) {
  const cudaError_t status = called(name);
  if (status != cudaSuccess) return status;
  *handle = new FakeHandle{int(state().calls.size())};
  state().handles.insert(*handle);
  return status;
}
// A handle is gone even where the call fails.
cudaError_t destroy(const char* name, FakeHandle* handle) {
  state().handles.erase(handle);
  delete handle;
  return called(name);
}
cudaError_t allocate(const char* name, void** pointer, size_t bytes) {
  const cudaError_t status = called(name);
  if (status != cudaSuccess) return status;
  *pointer = std::malloc(bytes);
  state().memory.insert(*pointer);
  return status;
}
cudaError_t release(const char* name, void* pointer) {
  state().memory.erase(pointer);
  std::free(pointer);
  return called(name);
}
cudaError_t query(const char* name) {
  const cudaError_t status = called(name);
  if (status != cudaSuccess || state().not_ready == 0) return status;
  --state().not_ready;
  return cudaErrorNotReady;
}
}  // namespace
}  // namespace fake_cuda

using fake_cuda::allocate;
using fake_cuda::called;
using fake_cuda::destroy;
using fake_cuda::make;
using fake_cuda::query;
using fake_cuda::release;
using fake_cuda::state;

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return called("cudaDriverGetVersion");
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return called("cudaRuntimeGetVersion");
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 2;
  return called("cudaGetDeviceCount");
}
cudaError_t cudaGetLastError() { return called("cudaGetLastError"); }
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorIllegalAddress ? "an illegal memory access was encountered" : "some error";
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = state().free;
  *total = size_t(141) << 30;
  return called("cudaMemGetInfo");
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::strcpy(properties->name, "fake");
  properties->major = 9;
  properties->multiProcessorCount = 132;
  return called("cudaGetDeviceProperties");
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 232448
           : attribute == cudaDevAttrComputeCapabilityMajor     ? 9
                                                                : 0;
  return called("cudaDeviceGetAttribute");
}
cudaError_t cudaSetDevice(int device) {
  state().device = device;
  return called("cudaSetDevice") == cudaErrorNoDevice ? cudaErrorNoDevice : cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = state().device;
  return called("cudaGetDevice");
}
cudaError_t cudaDeviceReset() {
  state().calls.emplace_back("cudaDeviceReset");
  state().sticky = cudaSuccess;
  state().free_everything();
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return make("cudaStreamCreateWithFlags", stream);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return destroy("cudaStreamDestroy", stream); }
cudaError_t cudaStreamQuery(cudaStream_t) { return query("cudaStreamQuery"); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t) { return called("cudaStreamWaitEvent"); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return called("cudaMemcpyAsync");
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return called("cudaMemsetAsync");
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return make("cudaEventCreateWithFlags", event);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) { return destroy("cudaEventDestroy", event); }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return called("cudaEventRecord"); }
cudaError_t cudaEventQuery(cudaEvent_t) { return query("cudaEventQuery"); }
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  return called("cudaStreamBeginCapture");
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  return make("cudaStreamEndCapture", graph);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return destroy("cudaGraphDestroy", graph); }
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t, unsigned long long) {
  return make("cudaGraphInstantiate", executable);
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
  state().free -= state().graph_bytes;
  return called("cudaGraphUpload");
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  state().free += state().graph_bytes;
  return destroy("cudaGraphExecDestroy", executable);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return called("cudaGraphLaunch"); }
cudaError_t cudaMalloc(void** pointer, size_t bytes) { return allocate("cudaMalloc", pointer, bytes); }
cudaError_t cudaFree(void* pointer) { return release("cudaFree", pointer); }
cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  return allocate("cudaMallocHost", pointer, bytes);
}
cudaError_t cudaFreeHost(void* pointer) { return release("cudaFreeHost", pointer); }
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  attributes->sharedSizeBytes = 1024;
  return called("cudaFuncGetAttributes");
}
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  auto& values =
      attribute == cudaFuncAttributeMaxDynamicSharedMemorySize ? state().dynamic_shared : state().carveout;
  values[function] = value;
  return called("cudaFuncSetAttribute");
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void**) {
  const auto allowed = state().dynamic_shared.find(function);
  const size_t most = allowed == state().dynamic_shared.end() ? 48 << 10 : size_t(allowed->second);
  if (config->dynamicSmemBytes > most) return cudaErrorInvalidValue;
  return called("cudaLaunchKernelExC");
}
