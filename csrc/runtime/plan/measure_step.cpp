#include "runtime/plan/measure_step.h"

#include <vector>

#include "model/llama4.h"
#include "model/vision.h"
#include "ops/measure.h"
#include "runtime/runner/batch_builder.h"

namespace llama4rt {
namespace {

// As much as any step could take: a measuring device has no memory that could run out.
constexpr size_t kUnbounded = size_t(1) << 60;

// The tower's activations: 30 MB a tile in the released models. More tiles at once read the weights less
// often.
constexpr int64_t kTowerMemory = int64_t(128) << 20;
constexpr int64_t kMostTiles = 16;

// The weights of a source as a measuring device sees them: their kinds and shapes in its layout, at an
// address that is never read.
class ShapesOnly final : public WeightSource {
 public:
  ShapesOnly(const WeightSource& source, Layout layout) : source_(source), layout_(layout) {}

  const std::string& path() const override { return source_.path(); }
  const ModelConfig& config() const override { return source_.config(); }
  Layout layout() const override { return layout_; }
  bool has(std::string_view name) const override { return source_.has(name); }
  Weight weight(std::string_view name) const override {
    Weight w = source_.weight(name);
    w.data = MeasuringDevice::no_memory();
    if (w.layout != Layout::kRowMajor) w.layout = layout_;
    if (w.quantized()) w.scales = MeasuringDevice::no_memory();
    return w;
  }
  Tensor tensor(std::string_view name) const override {
    Tensor t = source_.tensor(name);
    t.data = MeasuringDevice::no_memory();
    return t;
  }

 private:
  const WeightSource& source_;
  const Layout layout_;
};

std::vector<KvLayer> kv_layers(const ModelConfig& config, int block_size, KvKind global, KvKind local) {
  std::vector<KvLayer> layers;
  for (const bool chunked : config.chunked_layers)
    layers.push_back({.k = MeasuringDevice::no_memory(),
                      .v = MeasuringDevice::no_memory(),
                      .format = chunked ? local : global,
                      .num_blocks = 1,
                      .block_size = block_size,
                      .num_kv_heads = int(config.num_key_value_heads),
                      .head_dim = int(config.head_dim)});
  return layers;
}

}  // namespace

StepMemory measure_text_step(const WeightSource& source, const DeviceTraits& traits, const StepShape& shape,
                             KvKind kv_global, KvKind kv_local) {
  MeasuringDevice device(traits);
  const ModelConfig& config = source.config();
  const Llama4Weights weights = Llama4Weights::load(ShapesOnly(source, traits.layout));
  Llama4 model(device, config, weights, shape, kUnbounded);
  model.forward(BatchBuilder::largest(config, shape),
                kv_layers(config, shape.block_size, kv_global, kv_local));
  const Tensor logits = model.logits(0, shape.logit_rows);
  if (traits.samples) {
    SampleBatch batch;
    batch.num_rows = shape.logit_rows;
    batch.rows = static_cast<const SampleRow*>(MeasuringDevice::no_memory());
    batch.sampled = static_cast<SampledRow*>(MeasuringDevice::no_memory());
    batch.top = static_cast<SampledTop*>(MeasuringDevice::no_memory());
    device.ops().sample(batch, logits);
  }
  return {.workspace = int64_t(model.workspace().peak()), .scratch = device.scratch()};
}

StepMemory measure_vision_step(const WeightSource& source, const DeviceTraits& traits, int64_t tiles) {
  MeasuringDevice device(traits);
  const ModelConfig& config = source.config();
  const VisionWeights weights = VisionWeights::load(ShapesOnly(source, traits.layout));
  VisionTower tower(device, config, weights, tiles, kUnbounded);
  const VisionConfig& v = *config.vision;
  const std::vector<uint8_t> pixels(size_t(tiles * v.image_size * v.image_size * 3));
  tower.encode(
      Tensor(MeasuringDevice::no_memory(), DType::kF32, {tiles * v.tokens_per_tile(), config.hidden_size}),
      pixels);
  return {.workspace = int64_t(tower.workspace().peak()), .scratch = device.scratch()};
}

int64_t image_tiles_at_once(const WeightSource& source, const DeviceTraits& device) {
  int64_t low = 1, high = kMostTiles;
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (measure_vision_step(source, device, middle).workspace <= kTowerMemory)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

}  // namespace llama4rt
