#include "format/model_config.h"

#include <string>

#include "base/error.h"
#include "format/sample_engine.h"
#include "test.h"

namespace llama4rt::test {
namespace {

std::string edited(const std::string& from, const std::string& to) {
  std::string text = sample_config();
  const size_t at = text.find(from);
  if (at == std::string::npos) return "no such text: " + from;
  return text.replace(at, from.size(), to);
}

constexpr const char* kVision =
    R"("vision":{"hidden_size":176,"num_hidden_layers":3,"num_attention_heads":2,"intermediate_size":704,)"
    R"("adapter_hidden_size":48,"output_dim":40,"image_size":42,"patch_size":7,"rope_theta":10000.0,)"
    R"("norm_eps":1e-05,"patch_token_id":39})";

// The sample config with a vision tower, changed in one place.
std::string with_vision(const std::string& from = "", const std::string& to = "") {
  std::string vision = kVision;
  const size_t at = vision.find(from);
  if (at == std::string::npos) return "no such text: " + from;
  vision.replace(at, from.size(), to);
  return edited("\"eos_token_ids\":[2]", "\"eos_token_ids\":[2]," + vision);
}

std::string config_error(const std::string& text) {
  try {
    ModelConfig::from_json(text);
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kConfig);
    return error.what();
  }
  return "";
}

}  // namespace

TEST(round_trip) {
  const ModelConfig config = ModelConfig::from_json(sample_config());
  CHECK_EQ(config.to_json(), ModelConfig::from_json(config.to_json()).to_json());
  CHECK_EQ(config.architecture, "Llama4ForCausalLM");
  CHECK_EQ(config.q_dim(), 32);
  CHECK_EQ(config.kv_dim(), 16);
  CHECK_CLOSE(config.rms_norm_eps, 1e-5, 1e-12);
  CHECK(!config.has_rope_scaling);
  CHECK(config.local_rope_positions());
  CHECK_EQ(config.eos_token_ids.size(), size_t(1));

  const ModelConfig scaled = ModelConfig::from_json(
      edited("\"rope_scaling\":null",
             "\"rope_scaling\":{\"factor\":16,\"low_freq_factor\":1,\"high_freq_factor\":1,"
             "\"original_max_position_embeddings\":8192}"));
  CHECK(scaled.has_rope_scaling);
  CHECK_EQ(scaled.rope_scaling.factor, 16.0);
  CHECK_EQ(ModelConfig::from_json(scaled.to_json()).to_json(), scaled.to_json());
}

TEST(vision_is_optional) {
  const ModelConfig text = ModelConfig::from_json(sample_config());
  CHECK(!text.vision);
  CHECK(text.to_json().find("vision") == std::string::npos);

  const ModelConfig config = ModelConfig::from_json(with_vision());
  CHECK(config.vision.has_value());
  CHECK_EQ(ModelConfig::from_json(config.to_json()).to_json(), config.to_json());
  const VisionConfig& v = *config.vision;
  CHECK_EQ(v.hidden_size, 176);
  CHECK_EQ(v.num_hidden_layers, 3);
  CHECK_EQ(v.head_dim(), 88);
  CHECK_EQ(v.intermediate_size, 704);
  CHECK_EQ(v.adapter_hidden_size, 48);
  CHECK_EQ(v.output_dim, 40);
  CHECK_EQ(v.grid(), 6);
  CHECK_EQ(v.num_patches(), 36);
  CHECK_EQ(v.tokens_per_tile(), 9);
  CHECK_EQ(v.patch_dim(), 147);
  CHECK_EQ(v.rope_theta, 10000.0);
  CHECK_CLOSE(v.norm_eps, 1e-5, 1e-12);
  CHECK_EQ(v.patch_token_id, 39);
}

TEST(impossible_vision) {
  const struct {
    const char* from;
    const char* to;
    const char* expected;
  } kBad[] = {
      {"\"hidden_size\":176,", "", "vision.hidden_size is missing"},
      {"\"hidden_size\":176", "\"hidden_size\":0",
       "vision.hidden_size is 0; it must be an integer in 1..1048576"},
      {"\"hidden_size\":176", "\"hidden_size\":177",
       "vision.hidden_size (177) is not a multiple of vision.num_attention_heads (2)"},
      {"\"hidden_size\":176", "\"hidden_size\":180",
       "vision.num_attention_heads is 90; a head must be a multiple of 4"},
      {"\"hidden_size\":176", "\"hidden_size\":1032", "is 516; a head must be a multiple of 4"},
      {"\"hidden_size\":176", "\"hidden_size\":184",
       "vision.intermediate_size is 704; it must be 4 * vision.hidden_size (736)"},
      {"\"num_hidden_layers\":3", "\"num_hidden_layers\":0", "vision.num_hidden_layers is 0"},
      {"\"num_hidden_layers\":3", "\"num_hidden_layers\":1025", "in 1..1024"},
      {"\"num_attention_heads\":2", "\"num_attention_heads\":0", "vision.num_attention_heads is 0"},
      {"\"num_attention_heads\":2", "\"num_attention_heads\":88", "is 2; a head must be a multiple of 4"},
      {"\"intermediate_size\":704", "\"intermediate_size\":9223372036854775807",
       "vision.intermediate_size is"},
      {"\"adapter_hidden_size\":48", "\"adapter_hidden_size\":-1", "vision.adapter_hidden_size is -1"},
      {"\"output_dim\":40", "\"output_dim\":\"40\"", "vision.output_dim is \"40\""},
      {"\"image_size\":42", "\"image_size\":43",
       "vision.image_size (43) is not a multiple of vision.patch_size (7)"},
      {"\"image_size\":42", "\"image_size\":49", "is 7; it must be even"},
      {"\"image_size\":42", "\"image_size\":1806",
       "is 258; it must be even, because 2 x 2 patches become one token, and at most 256"},
      {"\"image_size\":42", "\"image_size\":8193", "in 2..8192"},
      {"\"patch_size\":7", "\"patch_size\":0", "vision.patch_size is 0"},
      {"\"patch_size\":7", "\"patch_size\":84", "is not a multiple of vision.patch_size (84)"},
      {"\"rope_theta\":10000.0", "\"rope_theta\":null", "vision.rope_theta is null"},
      {"\"norm_eps\":1e-05", "\"norm_eps\":0", "vision.norm_eps is 0"},
      {"\"norm_eps\":1e-05", "\"norm_eps\":1e-60", "single precision"},
      {"\"patch_token_id\":39", "\"patch_token_id\":40",
       "vision.patch_token_id is 40; it must be an integer in 0..39"},
      {"\"patch_token_id\":39", "\"patch_token_id\":-1", "vision.patch_token_id is -1"},
      {"\"patch_token_id\":39", "\"patch_token_id\":39,\"new\":1", "vision: unknown field \"new\""},
  };
  for (const auto& bad : kBad) {
    SCOPE(bad.from, " -> ", bad.to);
    const std::string message = config_error(with_vision(bad.from, bad.to));
    SCOPE("message: ", message);
    CHECK(message.find(bad.expected) != std::string::npos);
  }
  CHECK_EQ(config_error(edited("\"eos_token_ids\":[2]", "\"eos_token_ids\":[2],\"vision\":null")),
           "vision is null; it must be an object");
}

TEST(local_positions_need_every_rope_layer_chunked) {
  CHECK(!ModelConfig::from_json(edited("\"rope_layers\":[1,0]", "\"rope_layers\":[1,1]"))
             .local_rope_positions());
  CHECK(!ModelConfig::from_json(edited("\"chunked_layers\":[1,0]", "\"chunked_layers\":[0,0]"))
             .local_rope_positions());
}

TEST(impossible_configs) {
  const struct {
    const char* from;
    const char* to;
    const char* expected;
  } kBad[] = {
      {"\"vocab_size\":40", "\"vocab_size\":0", "vocab_size is 0; it must be an integer in 1..16777216"},
      {"\"vocab_size\":40", "\"vocab_size\":-1", "vocab_size is -1"},
      {"\"vocab_size\":40", "\"vocab_size\":40.5", "vocab_size is 40.5"},
      {"\"vocab_size\":40", "\"vocab_size\":\"40\"", "vocab_size is \"40\""},
      {"\"vocab_size\":40", "\"vocab_size\":true", "vocab_size is true"},
      {"\"vocab_size\":40", "\"vocab_size\":1e3", "vocab_size is 1000"},
      {"\"vocab_size\":40,", "", "vocab_size is missing"},
      {"\"vocab_size\":40", "\"vocab_size\":9223372036854775807", "vocab_size is 9223372036854775807"},
      {"\"hidden_size\":32", "\"hidden_size\":[]", "hidden_size is a list"},
      {"\"hidden_size\":32", "\"hidden_size\":2000000", "in 1..1048576"},
      {"\"num_hidden_layers\":2", "\"num_hidden_layers\":1025", "in 1..1024"},
      {"\"num_hidden_layers\":2", "\"num_hidden_layers\":3", "rope_layers has 2 entries"},
      {"\"num_attention_heads\":2", "\"num_attention_heads\":0", "num_attention_heads is 0"},
      {"\"num_attention_heads\":2,\"num_key_value_heads\":1",
       "\"num_attention_heads\":40,\"num_key_value_heads\":7",
       "num_attention_heads (40) is not a multiple of num_key_value_heads (7)"},
      {"\"num_attention_heads\":2,\"num_key_value_heads\":1",
       "\"num_attention_heads\":9,\"num_key_value_heads\":4",
       "(9) is not a multiple of num_key_value_heads (4)"},
      {"\"head_dim\":16", "\"head_dim\":7", "head_dim is 7; it must be even"},
      {"\"head_dim\":16", "\"head_dim\":514", "in 2..512"},
      {"\"intermediate_size\":20", "\"intermediate_size\":0", "intermediate_size is 0"},
      {"\"intermediate_size_mlp\":48", "\"intermediate_size_mlp\":0", "intermediate_size_mlp is 0"},
      {"\"num_local_experts\":2", "\"num_local_experts\":0", "num_local_experts is 0"},
      {"\"num_local_experts\":2", "\"num_local_experts\":4097", "in 0..4096"},
      {"\"moe_layers\":[1,0]", "\"moe_layers\":[0,0]", "it must be 0 when no layer is MoE"},
      {"\"num_experts_per_tok\":1", "\"num_experts_per_tok\":3", "1..num_local_experts (2)"},
      {"\"num_experts_per_tok\":1", "\"num_experts_per_tok\":0", "1..num_local_experts (2)"},
      {"\"rope_layers\":[1,0]", "\"rope_layers\":[1]",
       "rope_layers has 1 entries; it must have num_hidden_layers (2)"},
      {"\"rope_layers\":[1,0]", "\"rope_layers\":[1,2]", "rope_layers[1] is 2; it must be 0 or 1"},
      {"\"rope_layers\":[1,0]", "\"rope_layers\":[1,false]", "rope_layers[1] is false"},
      {"\"attention_chunk_size\":32", "\"attention_chunk_size\":-1", "attention_chunk_size is -1"},
      {"\"attention_chunk_size\":32", "\"attention_chunk_size\":0", "names a chunked layer"},
      {"\"use_qk_norm\":true", "\"use_qk_norm\":1", "use_qk_norm is 1; it must be true or false"},
      {"\"rms_norm_eps\":1e-05", "\"rms_norm_eps\":0", "rms_norm_eps is 0; it must be a number > 0"},
      {"\"rms_norm_eps\":1e-05", "\"rms_norm_eps\":-1e-5", "rms_norm_eps is -1e-05"},
      {"\"rms_norm_eps\":1e-05", "\"rms_norm_eps\":1e-60", "single precision"},
      {"\"rope_theta\":500000.0", "\"rope_theta\":0", "rope_theta is 0"},
      {"\"rope_theta\":500000.0", "\"rope_theta\":1e400", "outside the range"},
      {"\"rope_theta\":500000.0", "\"rope_theta\":NaN", "expected a JSON value"},
      {"\"rope_scaling\":null", "\"rope_scaling\":8", "rope_scaling is a number"},
      {"\"rope_scaling\":null", "\"rope_scaling\":{\"factor\":8}", "rope_scaling.low_freq_factor is missing"},
      {"\"rope_scaling\":null",
       "\"rope_scaling\":{\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":1,"
       "\"original_max_position_embeddings\":8192}",
       "is less than rope_scaling.low_freq_factor"},
      {"\"rope_scaling\":null",
       "\"rope_scaling\":{\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,\"x\":1,"
       "\"original_max_position_embeddings\":8192}",
       "rope_scaling: unknown field \"x\""},
      {"\"attn_temperature_tuning\":true", "\"attn_temperature_tuning\":4", "must be true or false"},
      {"\"floor_scale\":8192.0", "\"floor_scale\":0", "floor_scale is 0; it must be positive"},
      {"\"attn_scale\":0.1", "\"attn_scale\":null", "attn_scale is null"},
      {"\"max_position_embeddings\":4096", "\"max_position_embeddings\":0", "max_position_embeddings is 0"},
      {"\"bos_token_id\":1", "\"bos_token_id\":40", "bos_token_id is 40; it must be an integer in -1..39"},
      {"\"eos_token_ids\":[2]", "\"eos_token_ids\":[40]", "eos_token_ids[0] is 40"},
      {"\"eos_token_ids\":[2]", "\"eos_token_ids\":2", "eos_token_ids is 2; it must be a list"},
      {"\"architecture\":\"Llama4ForCausalLM\"", "\"architecture\":7", "architecture is 7"},
      {"\"architecture\"", "\"new_feature\":true,\"architecture\"", "unknown field \"new_feature\""},
      {"{\"architecture\"", "[{\"architecture\"", "ends inside an array"},
  };
  for (const auto& bad : kBad) {
    SCOPE(bad.from, " -> ", bad.to);
    const std::string message = config_error(edited(bad.from, bad.to));
    SCOPE("message: ", message);
    CHECK(message.find(bad.expected) != std::string::npos);
  }
}

}  // namespace llama4rt::test
