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
    std::string message;
    try {
      ModelConfig::from_json(edited(bad.from, bad.to));
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::kConfig);
      message = error.what();
    }
    SCOPE("message: ", message);
    CHECK(message.find(bad.expected) != std::string::npos);
  }
}

}  // namespace llama4rt::test
