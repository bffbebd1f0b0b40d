#include "model/weights.h"

#include <string>

#include "format/layout.h"
#include "model/weight_collector.h"

namespace llama4rt {

Llama4Weights Llama4Weights::load(const WeightSource& source) {
  const ModelConfig& c = source.config();
  WeightCollector want(source);
  const auto mlp = [&](const std::string& prefix, int64_t width) {
    return Mlp{want.matrix(prefix + ".gate_up", cpu16::gate_up_rows(width), c.hidden_size),
               want.matrix(prefix + ".down", c.hidden_size, width)};
  };
  Llama4Weights w;
  w.embed = want.row_major("embed", c.vocab_size, c.hidden_size);
  w.norm = want.vector("norm", c.hidden_size);
  w.lm_head = want.matrix("lm_head", c.vocab_size, c.hidden_size);
  w.layers.resize(size_t(c.num_hidden_layers));
  for (size_t l = 0; l < w.layers.size(); ++l) {
    const std::string prefix = "layers." + std::to_string(l);
    Layer& layer = w.layers[l];
    layer.attn_norm = want.vector(prefix + ".attn_norm", c.hidden_size);
    layer.ffn_norm = want.vector(prefix + ".ffn_norm", c.hidden_size);
    layer.qkv = want.matrix(prefix + ".attn.qkv", c.q_dim() + 2 * c.kv_dim(), c.hidden_size);
    layer.o = want.matrix(prefix + ".attn.o", c.hidden_size, c.q_dim());
    if (!c.moe_layers[l]) {
      layer.mlp = mlp(prefix + ".mlp", c.intermediate_size_mlp);
      continue;
    }
    const int64_t experts = c.num_local_experts;
    Moe moe;
    moe.router = want.router(prefix + ".moe.router", experts, c.hidden_size);
    moe.shared = mlp(prefix + ".moe.shared", c.intermediate_size);
    moe.gate_up =
        want.stack(prefix + ".moe.gate_up", experts, cpu16::gate_up_rows(c.intermediate_size), c.hidden_size);
    moe.down = want.stack(prefix + ".moe.down", experts, c.hidden_size, c.intermediate_size);
    layer.moe = moe;
  }
  want.finish();
  return w;
}

}  // namespace llama4rt
