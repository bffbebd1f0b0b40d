// DeviceWeights: the tensors of an engine file in the memory of a device, in one allocation. Where they lie
// follows from their names and sizes alone, so that the size is known without a device.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

#include "format/engine_file.h"
#include "format/weight_source.h"
#include "ops/device.h"

namespace llama4rt {

class DeviceWeights final : public WeightSource {
 public:
  // Copies every tensor that is not one of the stored files. `file` and `device` outlive the weights.
  DeviceWeights(const EngineFile& file, Device& device);
  ~DeviceWeights() override;
  DeviceWeights(const DeviceWeights&) = delete;
  DeviceWeights& operator=(const DeviceWeights&) = delete;

  const std::string& path() const override { return file_.path(); }
  const ModelConfig& config() const override { return file_.config(); }
  Layout layout() const override { return file_.layout(); }
  bool has(std::string_view name) const override { return file_.has(name); }
  Weight weight(std::string_view name) const override;
  Tensor tensor(std::string_view name) const override;

  // Bytes of the allocation.
  static int64_t bytes(const EngineFile& file);

 private:
  char* at(const std::string& name) const;

  const EngineFile& file_;
  Device& device_;
  int64_t bytes_ = 0;
  char* base_ = nullptr;
  std::unordered_map<std::string, int64_t> offsets_;  // by stored tensor
};

}  // namespace llama4rt
