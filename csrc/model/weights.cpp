#include "model/weights.h"

#include <string>

#include "base/error.h"
#include "format/layout.h"

namespace llama4rt {
namespace {

// Asks for tensors by name and collects what is wrong, so that one error tells the whole story.
class Collector {
 public:
  explicit Collector(const EngineFile& file) : file_(file) {}

  Tensor norm(const std::string& name) {
    const int64_t size = file_.config().hidden_size;
    if (!present(name)) return {};
    const Tensor t = file_.tensor(name);
    if (t.dtype != DType::kF32 || t.rank != 1 || t.size(0) != size)
      problem(name, error_text("is ", t.describe(), "; expected F32 [", size, "]"));
    return t;
  }

  Weight matrix(const std::string& name, int64_t n, int64_t k, Layout layout = Layout::kCpu16) {
    return stack(name, 1, n, k, layout);
  }

  Weight stack(const std::string& name, int64_t experts, int64_t n, int64_t k,
               Layout layout = Layout::kCpu16) {
    if (!present(name)) return {};
    const Weight w = file_.weight(name);
    if (w.layout != layout || w.num_experts != experts || w.n != n || w.k != k)
      problem(name, error_text("is ", layout_name(w.layout), " [", w.num_experts, ", ", w.n, ", ", w.k,
                               "]; expected ", layout_name(layout), " [", experts, ", ", n, ", ", k, "]"));
    return w;
  }

  Weight router(const std::string& name, int64_t n, int64_t k) {
    const Weight w = matrix(name, n, k);
    if (w && w.kind != WeightKind::kBF16)
      problem(name, error_text("is ", weight_kind_name(w.kind), "; a router must be bf16"));
    return w;
  }

  void finish() const {
    LLAMA4RT_CHECK(kEngineFile, problems_.empty(), file_.path(), ": ", count_,
                   " tensors do not match the model config", problems_);
  }

 private:
  bool present(const std::string& name) {
    if (file_.has(name)) return true;
    problem(name, "is missing");
    return false;
  }
  void problem(const std::string& name, const std::string& text) {
    ++count_;
    problems_ += "\n  " + name + " " + text;
  }

  const EngineFile& file_;
  std::string problems_;
  int count_ = 0;
};

}  // namespace

Llama4Weights Llama4Weights::load(const EngineFile& file) {
  const ModelConfig& c = file.config();
  Collector want(file);
  const auto mlp = [&](const std::string& prefix, int64_t width) {
    return Mlp{want.matrix(prefix + ".gate_up", cpu16::gate_up_rows(width), c.hidden_size),
               want.matrix(prefix + ".down", c.hidden_size, width)};
  };
  Llama4Weights w;
  w.embed = want.matrix("embed", c.vocab_size, c.hidden_size, Layout::kRowMajor);
  w.norm = want.norm("norm");
  w.lm_head = want.matrix("lm_head", c.vocab_size, c.hidden_size);
  w.layers.resize(size_t(c.num_hidden_layers));
  for (size_t l = 0; l < w.layers.size(); ++l) {
    const std::string prefix = "layers." + std::to_string(l);
    Layer& layer = w.layers[l];
    layer.attn_norm = want.norm(prefix + ".attn_norm");
    layer.ffn_norm = want.norm(prefix + ".ffn_norm");
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
