// Steps of a model that has no memory: the device's own host code runs, and its launches are dropped.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cuda/cuda_device.h"
#include "model/llama4.h"
#include "model/shape_source.h"
#include "ops/measure.h"

namespace llama4rt::test {

inline void* const kNowhere = MeasuringDevice::no_memory();

// Shapes with an address that no dropped kernel reads.
class Addressed final : public WeightSource {
 public:
  explicit Addressed(const ShapeSource& shapes) : shapes_(shapes) {}
  const std::string& path() const override { return shapes_.path(); }
  const ModelConfig& config() const override { return shapes_.config(); }
  Layout layout() const override { return shapes_.layout(); }
  bool has(std::string_view name) const override { return shapes_.has(name); }
  Weight weight(std::string_view name) const override {
    Weight w = shapes_.weight(name);
    w.data = kNowhere;
    if (w.quantized()) w.scales = kNowhere;
    return w;
  }
  Tensor tensor(std::string_view name) const override {
    Tensor t = shapes_.tensor(name);
    t.data = kNowhere;
    return t;
  }

 private:
  const ShapeSource& shapes_;
};

// Runs the host code of one step; kernels are dropped.
inline void submit(Llama4& model, CudaDevice& device, const ModelConfig& config, const Batch& batch,
                   KvKind kv_format, int block_size) {
  const KvLayer layer{.k = kNowhere,
                      .v = kNowhere,
                      .format = kv_format,
                      .num_blocks = 1,
                      .block_size = block_size,
                      .num_kv_heads = int(config.num_key_value_heads),
                      .head_dim = int(config.head_dim)};
  const std::vector<KvLayer> layers(size_t(config.num_hidden_layers), layer);
  model.forward(batch, layers);
  SampleBatch sampling;
  sampling.num_rows = batch.num_outputs;
  sampling.rows = static_cast<const SampleRow*>(kNowhere);
  sampling.sampled = static_cast<SampledRow*>(kNowhere);
  sampling.top = static_cast<SampledTop*>(kNowhere);
  device.ops().sample(sampling, model.logits(0, batch.num_outputs));
}

}  // namespace llama4rt::test
