#include "model/vision_weights.h"

#include <string>

#include "base/error.h"
#include "model/weight_collector.h"

namespace llama4rt {

VisionWeights VisionWeights::load(const WeightSource& source) {
  LLAMA4RT_CHECK(kInternal, source.config().vision, source.path(), " has no vision tower");
  WeightCollector want(source, vision_tensors(source.config()));
  const auto norm = [&](const std::string& name) {
    return Norm{want.plain(name + ".weight"), want.plain(name + ".bias")};
  };
  const auto linear = [&](const std::string& name) {
    return Linear{want.weight(name), want.plain(name + ".bias")};
  };
  VisionWeights w;
  w.patch_embedding = want.weight("vision.patch_embedding");
  w.class_embedding = want.plain("vision.class_embedding");
  w.positional_embedding = want.plain("vision.positional_embedding");
  w.pre_norm = norm("vision.pre_norm");
  w.layers.resize(size_t(source.config().vision->num_hidden_layers));
  for (size_t l = 0; l < w.layers.size(); ++l) {
    const std::string prefix = "vision.layers." + std::to_string(l);
    Layer& layer = w.layers[l];
    layer.attn_norm = norm(prefix + ".attn_norm");
    layer.qkv = linear(prefix + ".attn.qkv");
    layer.o = linear(prefix + ".attn.o");
    layer.mlp_norm = norm(prefix + ".mlp_norm");
    layer.fc1 = linear(prefix + ".mlp.fc1");
    layer.fc2 = linear(prefix + ".mlp.fc2");
  }
  w.post_norm = norm("vision.post_norm");
  w.adapter_fc1 = want.weight("vision.adapter.fc1");
  w.adapter_fc2 = want.weight("vision.adapter.fc2");
  w.projector = want.weight("vision.projector");
  want.finish();
  return w;
}

}  // namespace llama4rt
