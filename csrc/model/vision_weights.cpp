#include "model/vision_weights.h"

#include <string>

#include "base/error.h"
#include "model/weight_collector.h"

namespace llama4rt {

VisionWeights VisionWeights::load(const WeightSource& source) {
  LLAMA4RT_CHECK(kInternal, source.config().vision, source.path(), " has no vision tower");
  const VisionConfig& c = *source.config().vision;
  WeightCollector want(source);
  const auto norm = [&](const std::string& name) {
    return Norm{want.vector(name + ".weight", c.hidden_size), want.vector(name + ".bias", c.hidden_size)};
  };
  const auto linear = [&](const std::string& name, int64_t n, int64_t k) {
    return Linear{want.matrix(name, n, k), want.vector(name + ".bias", n)};
  };
  VisionWeights w;
  w.patch_embedding = want.matrix("vision.patch_embedding", c.hidden_size, c.patch_dim());
  w.class_embedding = want.vector("vision.class_embedding", c.hidden_size);
  w.positional_embedding = want.table("vision.positional_embedding", c.num_patches() + 1, c.hidden_size);
  w.pre_norm = norm("vision.pre_norm");
  w.layers.resize(size_t(c.num_hidden_layers));
  for (size_t l = 0; l < w.layers.size(); ++l) {
    const std::string prefix = "vision.layers." + std::to_string(l);
    Layer& layer = w.layers[l];
    layer.attn_norm = norm(prefix + ".attn_norm");
    layer.qkv = linear(prefix + ".attn.qkv", 3 * c.hidden_size, c.hidden_size);
    layer.o = linear(prefix + ".attn.o", c.hidden_size, c.hidden_size);
    layer.mlp_norm = norm(prefix + ".mlp_norm");
    layer.fc1 = linear(prefix + ".mlp.fc1", c.intermediate_size, c.hidden_size);
    layer.fc2 = linear(prefix + ".mlp.fc2", c.hidden_size, c.intermediate_size);
  }
  w.post_norm = norm("vision.post_norm");
  w.adapter_fc1 = want.matrix("vision.adapter.fc1", c.adapter_hidden_size, c.intermediate_size);
  w.adapter_fc2 = want.matrix("vision.adapter.fc2", c.output_dim, c.adapter_hidden_size);
  w.projector = want.matrix("vision.projector", source.config().hidden_size, c.output_dim);
  want.finish();
  return w;
}

}  // namespace llama4rt
