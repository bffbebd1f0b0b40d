// HostDevice: a device whose ops work on the host's own memory. The CPU and the reference share it.
#pragma once

#include "ops/device.h"

namespace llama4rt {

class HostDevice : public Device {
 public:
  using Device::Device;

  // From 1 MB on memory comes as zero pages that are backed on first touch, by huge pages where possible.
  void* allocate(size_t bytes) override;
  void deallocate(void* p, size_t bytes) override;
  void copy_to_device(void* dst, const void* src, size_t bytes) override;
  void copy_to_host(void* dst, const void* src, size_t bytes) override;
};

}  // namespace llama4rt
