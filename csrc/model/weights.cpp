#include "model/weights.h"

#include <string>

#include "model/weight_collector.h"

namespace llama4rt {

Llama4Weights Llama4Weights::load(const WeightSource& source) {
  const ModelConfig& c = source.config();
  WeightCollector want(source, text_tensors(c));
  const auto mlp = [&](const std::string& prefix) {
    return Mlp{want.weight(prefix + ".gate_up"), want.weight(prefix + ".down")};
  };
  Llama4Weights w;
  w.embed = want.weight("embed");
  w.norm = want.plain("norm");
  w.lm_head = want.weight("lm_head");
  w.layers.resize(size_t(c.num_hidden_layers));
  for (size_t l = 0; l < w.layers.size(); ++l) {
    const std::string prefix = "layers." + std::to_string(l);
    Layer& layer = w.layers[l];
    layer.attn_norm = want.plain(prefix + ".attn_norm");
    layer.ffn_norm = want.plain(prefix + ".ffn_norm");
    layer.qkv = want.weight(prefix + ".attn.qkv");
    layer.o = want.weight(prefix + ".attn.o");
    if (!c.moe_layers[l]) {
      layer.mlp = mlp(prefix + ".mlp");
      continue;
    }
    Moe moe;
    moe.router = want.weight(prefix + ".moe.router");
    moe.shared = mlp(prefix + ".moe.shared");
    moe.experts = mlp(prefix + ".moe");
    layer.moe = moe;
  }
  want.finish();
  return w;
}

}  // namespace llama4rt
