// Device: one processor's memory, its copies and its way of running steps. What it computes is in ops.h: a
// device has one Ops. The runtime sees only these two classes; make_device() knows the devices there are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>

#include "weights/weight.h"

namespace llama4rt {

class MeasuringOps;
class Ops;

// Device memory that ops need beside what they are given, in bytes.
struct ScratchBytes {
  int64_t values = 0;
  int64_t tickets = 0;  // counters of blocks that meet; zero between kernels
  int64_t total() const { return values + tickets; }
};

// What is known of a kind of device without having one: enough for a memory plan.
struct DeviceTraits {
  Layout layout = Layout::kCpu16;  // of the matrices it multiplies with; an engine file is built for one
  bool has_own_memory = false;     // ops do not work on host memory: copies are needed
  bool runs_async = false;         // ops return before they are done
  bool samples = false;            // has Ops::sample; otherwise runtime/sampling does it on the host
  bool gpu_kv = false;             // has only the cache formats that kv_formats.h marks on_gpu
  // Ops that note what the device's own ones would need; null where those need nothing.
  std::unique_ptr<MeasuringOps> (*measuring_ops)(const DeviceTraits& traits) = nullptr;
};

class Device {
 public:
  explicit Device(const DeviceTraits& traits) : traits_(traits) {}
  virtual ~Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const DeviceTraits& traits() const { return traits_; }
  virtual Ops& ops() = 0;
  virtual std::string name() const = 0;          // "reference", "cpu", "cuda:0"
  virtual std::string describe() const = 0;      // for people: "cpu avx512_vnni, 2 threads"
  virtual int num_threads() const { return 1; }  // of the host that its ops use
  // Devices that say the same compute the same bits, whatever else differs.
  virtual std::string numerics() const { return describe(); }

  // Every thread calls it before it uses anything else here: some drivers keep the current device per thread.
  virtual void make_current() {}

  // --- memory: 64-byte aligned, not initialised (large CPU allocations read as zero and are backed on first
  // touch)
  virtual void* allocate(size_t bytes) = 0;
  virtual void deallocate(void* p, size_t bytes) = 0;
  // Both wait until the copy is done.
  virtual void copy_to_device(void* dst, const void* src, size_t bytes) = 0;
  virtual void copy_to_host(void* dst, const void* src, size_t bytes) = 0;
  virtual void zero(void* p, size_t bytes) { std::memset(p, 0, bytes); }
  // Like copy_to_device, for large data such as weights out of a mapped file: as fast as they can be read.
  // `src` is free when it returns. finish_upload() follows the last one: it waits, and frees the buffers of
  // uploads.
  virtual void upload(void* dst, const void* src, size_t bytes) { copy_to_device(dst, src, bytes); }
  virtual void finish_upload() {}
  // Allocates the scratch that ops will need now rather than at the first use.
  virtual void reserve_scratch(const ScratchBytes& /*bytes*/) {}
  // Bytes that allocate() can still give, approximately.
  virtual int64_t free_memory() const { return INT64_MAX; }

  // --- asynchronous copies
  // Host memory for the two copies below. They are in order with ops and done once a later mark is reached;
  // until then the staging memory must not be touched.
  virtual void* allocate_staging(size_t bytes) { return ::operator new(bytes); }
  virtual void deallocate_staging(void* p) { ::operator delete(p); }
  virtual void copy_to_device_async(void* dst, const void* staging, size_t bytes) {
    copy_to_device(dst, staging, bytes);
  }
  virtual void copy_to_host_async(void* staging, const void* src, size_t bytes) {
    copy_to_host(staging, src, bytes);
  }
  // A mark is reached when everything submitted before it is done. wait_for() may wait for up to sixteen
  // later marks too.
  virtual uint64_t mark() { return 0; }
  virtual void wait_for(uint64_t /*mark*/) {}

  // --- captured steps
  // Runs `submit`, which calls ops. A device may record what is submitted and replay the record when the same
  // key comes again, so everything that `submit` passes to ops must be determined by the key: addresses,
  // shapes and counts, not contents of device memory.
  virtual void run_captured(uint64_t /*key*/, const std::function<void()>& submit) { submit(); }
  // Drops all records: their addresses are no longer valid.
  virtual void forget_captured() {}

 private:
  const DeviceTraits traits_;
};

// What rows of activations become in front of int4 weights on a CPU; in front of int8 weights they are int16
// always. docs/numerics.md has the error of both, and why kAuto is what it is.
enum class Activations : uint8_t { kAuto, kInt8, kInt16 };
// Which kernels of a GPU multiply many rows. kMedium keeps wgmma out: its sums and those of mma.sync may
// differ in their last bits (docs/kernels/cuda_linear_prefill.md).
enum class PrefillKernels : uint8_t { kAuto, kMedium };

// How a device works. Options of one kind of device must stay at their defaults on the others.
struct DeviceOptions {
  int num_threads = 0;                             // CPU: 0 = all CPUs of this process
  Activations activations = Activations::kAuto;    // CPU
  PrefillKernels prefill = PrefillKernels::kAuto;  // CUDA
  bool run_ahead = true;        // CUDA: a step is submitted before the tokens of the one before it are known
  bool overlap_kernels = true;  // CUDA: a kernel's blocks may start before the kernel before it has ended
};
// "auto", "int8" or "int16"; "auto" or "medium". Throw kConfig for anything else.
Activations activations_by_name(const std::string& name);
PrefillKernels prefill_kernels_by_name(const std::string& name);

// The device that "auto" means for an engine file of this layout: a file serves one kind of device. Other
// names stay.
std::string choose_device(const std::string& device, Layout layout);
// For plans: of "cpu", "reference" and any "cuda", whether such a device is there or not.
DeviceTraits device_traits(const std::string& device);
// "reference", "cpu" (also "auto"), "cuda" or "cuda:N". Throws kConfig for anything else, naming what exists;
// for a device that cannot be used, saying why; for options of another kind of device.
std::unique_ptr<Device> make_device(const std::string& device, const DeviceOptions& options);

}  // namespace llama4rt
