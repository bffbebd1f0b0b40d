// The list of tensors: every stored row of a fused matrix belongs to one row of one part, or is padding.
#include "model/shape.h"

#include <set>

#include "model/tiny_engine.h"
#include "test.h"
#include "weights/layout.h"

namespace llama4rt {
namespace {

using namespace test;

ModelConfig seeing_config() {
  ModelConfig config = tiny_config();
  config.vision = tiny_vision_config(2);
  return config;
}

TEST(parts_fill_their_tensor_without_overlap) {
  for (const ModelConfig& config : {tiny_config(), seeing_config()}) {
    for (const TensorSpec& spec : model_tensors(config)) {
      std::set<int64_t> rows;
      int64_t count = 0;
      for (size_t part = 0; part < spec.parts.size(); ++part)
        for (int64_t row = 0; row < spec.parts[part].rows; ++row, ++count)
          rows.insert(spec.stored_row(part, row));
      CHECK_EQ(int64_t(rows.size()), count);
      CHECK(*rows.begin() == 0 && *rows.rbegin() < spec.n);
      CHECK(spec.interleaved() ? spec.n % 32 == 0 && spec.n - count < 32 : spec.n == count);
    }
  }
}

TEST(names_are_unique_and_follow_the_config) {
  ModelConfig config = tiny_config();
  std::set<std::string> names;
  for (const TensorSpec& spec : text_tensors(config)) CHECK(names.insert(spec.name).second);
  for (int l = 0; l < config.num_hidden_layers; ++l) {
    const std::string layer = "layers." + std::to_string(l);
    CHECK_EQ(names.contains(layer + ".moe.router"), bool(config.moe_layers[size_t(l)]));
    CHECK_EQ(names.contains(layer + ".mlp.down"), !config.moe_layers[size_t(l)]);
  }
}

TEST(a_tower_is_quantised_only_where_inputs_are_whole_groups) {
  WeightOptions options;
  options.vision = WeightKind::kInt8;
  options.group_size = 32;
  for (const TensorSpec& spec : vision_tensors(seeing_config())) {
    if (spec.is_plain()) continue;
    const Weight w = stored_weight(spec, options);
    CHECK_EQ(w.quantized(), spec.k % 32 == 0);
    CHECK_EQ(stored_bytes(spec, options).scales > 0, w.quantized());
  }
}

}  // namespace
}  // namespace llama4rt
