#include "format/model_config.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/json.h"

namespace llama4rt {
namespace {

// Bounds far beyond any published model; they keep every later product of two or three sizes inside int64.
constexpr int64_t kMaxVocab = int64_t(1) << 24;
constexpr int64_t kMaxWidth = int64_t(1) << 20;
constexpr int64_t kMaxMlpWidth = int64_t(1) << 24;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 512;
constexpr int64_t kMaxExperts = 4096;
constexpr int64_t kMaxPositions = int64_t(1) << 40;
constexpr int64_t kMaxTileSide = 8192;  // pixels
constexpr int64_t kMaxGrid = 256;       // patches along the side of a tile
constexpr size_t kMaxEndTokens = 1024;
constexpr size_t kMaxName = 256;

[[noreturn]] void fail(const std::string& message) { throw Error(ErrorKind::kConfig, message); }

std::string shown(const json::Value& value) {
  if (value.array() || value.object()) return std::string(json::type_name(value.type()));
  if (const std::string* text = value.string()) return "\"" + json::printable(*text) + "\"";
  return json::write(value);
}

// Takes the members of one JSON object by name and remembers which were asked for.
class Fields {
 public:
  Fields(const json::Value& value, std::string prefix) : object_(value), prefix_(std::move(prefix)) {
    if (!value.object())
      fail(error_text(prefix_.empty() ? "config" : prefix_, " is ", json::type_name(value.type()),
                      "; it must be an object"));
  }

  std::string name(const char* field) const { return prefix_.empty() ? field : prefix_ + "." + field; }

  const json::Value& get(const char* field) {
    known_.insert(field);
    const json::Value* value = object_.find(field);
    if (!value) fail(error_text(name(field), " is missing"));
    return *value;
  }

  // For what may be left out.
  const json::Value* find(const char* field) {
    known_.insert(field);
    return object_.find(field);
  }

  int64_t integer(const char* field, int64_t low, int64_t high) {
    const json::Value& value = get(field);
    const json::Number* number = value.number();
    if (!number || !number->is_integer || number->integer < low || number->integer > high)
      fail(error_text(name(field), " is ", shown(value), "; it must be an integer in ", low, "..", high));
    return number->integer;
  }

  // A finite number in [low, high], or in (low, high] when `open`.
  double real(const char* field, double low, double high, bool open) {
    const json::Value& value = get(field);
    const json::Number* number = value.number();
    const bool ok = number && std::isfinite(number->real) && number->real <= high &&
                    (open ? number->real > low : number->real >= low);
    if (!ok)
      fail(error_text(name(field), " is ", shown(value), "; it must be a number ", open ? "> " : ">= ", low,
                      " and <= ", high));
    return number->real;
  }

  bool boolean(const char* field) {
    const json::Value& value = get(field);
    if (!value.boolean()) fail(error_text(name(field), " is ", shown(value), "; it must be true or false"));
    return *value.boolean();
  }

  const json::Array& list(const char* field) {
    const json::Value& value = get(field);
    if (!value.array()) fail(error_text(name(field), " is ", shown(value), "; it must be a list"));
    return *value.array();
  }

  std::vector<bool> flags(const char* field, int count) {
    const json::Array& items = list(field);
    if (items.size() != size_t(count))
      fail(error_text(name(field), " has ", items.size(), " entries; it must have num_hidden_layers (", count,
                      ")"));
    std::vector<bool> out;
    for (const json::Value& item : items) {
      const json::Number* number = item.number();
      if (!number || !number->is_integer || (number->integer != 0 && number->integer != 1))
        fail(error_text(name(field), "[", out.size(), "] is ", shown(item), "; it must be 0 or 1"));
      out.push_back(number->integer == 1);
    }
    return out;
  }

  void refuse_unknown() const {
    for (const auto& [key, value] : *object_.object())
      if (!known_.contains(key))
        fail(error_text(prefix_.empty() ? "config" : prefix_, ": unknown field \"", json::printable(key),
                        "\"; this file may come from a newer llama4rt"));
  }

 private:
  const json::Value& object_;
  std::string prefix_;
  std::set<std::string, std::less<>> known_;
};

bool any(const std::vector<bool>& flags) {
  return std::find(flags.begin(), flags.end(), true) != flags.end();
}

RopeScaling parse_rope_scaling(const json::Value& value) {
  Fields fields(value, "rope_scaling");
  RopeScaling scaling;
  scaling.factor = fields.real("factor", 0, 1e6, true);
  scaling.low_freq_factor = fields.real("low_freq_factor", 0, 1e6, true);
  scaling.high_freq_factor = fields.real("high_freq_factor", 0, 1e6, true);
  scaling.original_max_position_embeddings =
      fields.real("original_max_position_embeddings", 0, double(kMaxPositions), true);
  if (scaling.high_freq_factor < scaling.low_freq_factor)
    fail(error_text("rope_scaling.high_freq_factor (", scaling.high_freq_factor,
                    ") is less than rope_scaling.low_freq_factor (", scaling.low_freq_factor, ")"));
  fields.refuse_unknown();
  return scaling;
}

// Checks between fields of the vision tower.
void check_together(const VisionConfig& v) {
  if (v.hidden_size % v.num_attention_heads != 0)
    fail(error_text("vision.hidden_size (", v.hidden_size,
                    ") is not a multiple of vision.num_attention_heads (", v.num_attention_heads, ")"));
  const int64_t head_dim = v.hidden_size / v.num_attention_heads;
  if (head_dim % 4 != 0 || head_dim > kMaxHeadDim)
    fail(error_text(
        "vision.hidden_size / vision.num_attention_heads is ", head_dim,
        "; a head must be a multiple of 4, because RoPE turns pairs in two directions, and at most ",
        kMaxHeadDim));
  if (v.intermediate_size != 4 * v.hidden_size)
    fail(error_text("vision.intermediate_size is ", v.intermediate_size,
                    "; it must be 4 * vision.hidden_size (", 4 * v.hidden_size,
                    "), because the adapter reads 2 x 2 patches with it"));
  if (v.image_size % v.patch_size != 0)
    fail(error_text("vision.image_size (", v.image_size, ") is not a multiple of vision.patch_size (",
                    v.patch_size, ")"));
  const int grid = v.grid();
  if (grid % 2 != 0 || grid > kMaxGrid)
    fail(error_text("vision.image_size / vision.patch_size is ", grid,
                    "; it must be even, because 2 x 2 patches become one token, and at most ", kMaxGrid));
}

VisionConfig parse_vision(const json::Value& value, int64_t vocab_size) {
  Fields f(value, "vision");
  VisionConfig v;
  v.hidden_size = f.integer("hidden_size", 1, kMaxWidth);
  v.num_hidden_layers = int(f.integer("num_hidden_layers", 1, kMaxLayers));
  v.num_attention_heads = int(f.integer("num_attention_heads", 1, kMaxHeads));
  v.intermediate_size = f.integer("intermediate_size", 1, kMaxMlpWidth);
  v.adapter_hidden_size = f.integer("adapter_hidden_size", 1, kMaxWidth);
  v.output_dim = f.integer("output_dim", 1, kMaxWidth);
  v.image_size = int(f.integer("image_size", 2, kMaxTileSide));
  v.patch_size = int(f.integer("patch_size", 1, kMaxTileSide));
  v.rope_theta = f.real("rope_theta", 0, 1e15, true);
  v.norm_eps = float(f.real("norm_eps", 0, 1, true));
  if (!(v.norm_eps > 0)) fail("vision.norm_eps is 0 in single precision; it must be positive");
  v.patch_token_id = f.integer("patch_token_id", 0, vocab_size - 1);
  f.refuse_unknown();
  check_together(v);
  return v;
}

void add(json::Object& object, const char* name, json::Value value) {
  object.emplace_back(name, std::move(value));
}

json::Object vision_object(const VisionConfig& v) {
  json::Object object;
  add(object, "hidden_size", v.hidden_size);
  add(object, "num_hidden_layers", v.num_hidden_layers);
  add(object, "num_attention_heads", v.num_attention_heads);
  add(object, "intermediate_size", v.intermediate_size);
  add(object, "adapter_hidden_size", v.adapter_hidden_size);
  add(object, "output_dim", v.output_dim);
  add(object, "image_size", v.image_size);
  add(object, "patch_size", v.patch_size);
  add(object, "rope_theta", v.rope_theta);
  add(object, "norm_eps", double(v.norm_eps));
  add(object, "patch_token_id", v.patch_token_id);
  return object;
}

// Checks between fields.
void check_together(const ModelConfig& c) {
  if (c.num_attention_heads % c.num_key_value_heads != 0)
    fail(error_text("num_attention_heads (", c.num_attention_heads,
                    ") is not a multiple of num_key_value_heads (", c.num_key_value_heads, ")"));
  if (c.head_dim % 2 != 0)
    fail(error_text("head_dim is ", c.head_dim, "; it must be even, because RoPE turns pairs"));
  if (any(c.chunked_layers) && c.attention_chunk_size == 0)
    fail("attention_chunk_size is 0, but chunked_layers names a chunked layer; it must be positive");

  const auto moe = std::count(c.moe_layers.begin(), c.moe_layers.end(), true);
  if (moe > 0) {
    if (c.num_local_experts == 0)
      fail(error_text("num_local_experts is 0, but moe_layers names ", moe, " layers; it must be positive"));
    if (c.num_experts_per_tok < 1 || c.num_experts_per_tok > c.num_local_experts)
      fail(error_text("num_experts_per_tok is ", c.num_experts_per_tok,
                      "; it must be in 1..num_local_experts (", c.num_local_experts, ")"));
    if (c.intermediate_size == 0)
      fail("intermediate_size is 0; it must be positive, because there are MoE layers");
  } else if (c.num_local_experts != 0) {
    fail(error_text("num_local_experts is ", c.num_local_experts, "; it must be 0 when no layer is MoE"));
  }
  if (moe < c.num_hidden_layers && c.intermediate_size_mlp == 0)
    fail("intermediate_size_mlp is 0; it must be positive, because there are dense layers");
  if (c.attn_temperature_tuning && c.floor_scale <= 0)
    fail(error_text("floor_scale is ", c.floor_scale,
                    "; it must be positive when attn_temperature_tuning is true"));
}

}  // namespace

bool ModelConfig::local_rope_positions() const {
  if (attention_chunk_size == 0) return false;
  for (size_t l = 0; l < rope_layers.size(); ++l)
    if (rope_layers[l] && !chunked_layers[l]) return false;
  return true;
}

ModelConfig ModelConfig::from_json(const std::string& text) {
  const json::Value document = json::parse(text, ErrorKind::kConfig, "config");
  Fields f(document, "");
  ModelConfig c;
  const json::Value& architecture = f.get("architecture");
  if (!architecture.string() || architecture.string()->size() > kMaxName)
    fail(error_text("architecture is ", shown(architecture), "; it must be a string of at most ", kMaxName,
                    " bytes"));
  c.architecture = *architecture.string();
  c.vocab_size = f.integer("vocab_size", 1, kMaxVocab);
  c.hidden_size = f.integer("hidden_size", 1, kMaxWidth);
  c.num_hidden_layers = int(f.integer("num_hidden_layers", 1, kMaxLayers));
  c.num_attention_heads = int(f.integer("num_attention_heads", 1, kMaxHeads));
  c.num_key_value_heads = int(f.integer("num_key_value_heads", 1, kMaxHeads));
  c.head_dim = int(f.integer("head_dim", 2, kMaxHeadDim));
  c.intermediate_size = f.integer("intermediate_size", 0, kMaxMlpWidth);
  c.intermediate_size_mlp = f.integer("intermediate_size_mlp", 0, kMaxMlpWidth);
  c.num_local_experts = int(f.integer("num_local_experts", 0, kMaxExperts));
  c.num_experts_per_tok = int(f.integer("num_experts_per_tok", 0, kMaxExperts));
  c.rope_layers = f.flags("rope_layers", c.num_hidden_layers);
  c.chunked_layers = f.flags("chunked_layers", c.num_hidden_layers);
  c.moe_layers = f.flags("moe_layers", c.num_hidden_layers);
  c.attention_chunk_size = f.integer("attention_chunk_size", 0, kMaxPositions);
  c.use_qk_norm = f.boolean("use_qk_norm");
  c.rms_norm_eps = float(f.real("rms_norm_eps", 0, 1, true));
  if (!(c.rms_norm_eps > 0)) fail("rms_norm_eps is 0 in single precision; it must be positive");
  c.rope_theta = f.real("rope_theta", 0, 1e15, true);
  if (const json::Value& scaling = f.get("rope_scaling"); !scaling.is_null()) {
    c.has_rope_scaling = true;
    c.rope_scaling = parse_rope_scaling(scaling);
  }
  c.attn_temperature_tuning = f.boolean("attn_temperature_tuning");
  c.attn_scale = f.real("attn_scale", 0, 1e6, false);
  c.floor_scale = f.real("floor_scale", 0, double(kMaxPositions), false);
  c.max_position_embeddings = f.integer("max_position_embeddings", 1, kMaxPositions);
  c.tie_word_embeddings = f.boolean("tie_word_embeddings");
  c.bos_token_id = f.integer("bos_token_id", -1, c.vocab_size - 1);
  const json::Array& ends = f.list("eos_token_ids");
  if (ends.size() > kMaxEndTokens)
    fail(error_text("eos_token_ids has ", ends.size(), " entries; at most ", kMaxEndTokens, " are allowed"));
  for (const json::Value& end : ends) {
    const json::Number* id = end.number();
    if (!id || !id->is_integer || id->integer < 0 || id->integer >= c.vocab_size)
      fail(error_text("eos_token_ids[", c.eos_token_ids.size(), "] is ", shown(end),
                      "; it must be a token id in 0..", c.vocab_size - 1));
    c.eos_token_ids.push_back(id->integer);
  }
  if (const json::Value* vision = f.find("vision")) c.vision = parse_vision(*vision, c.vocab_size);
  f.refuse_unknown();
  check_together(c);
  return c;
}

std::string ModelConfig::to_json() const {
  const auto flags = [](const std::vector<bool>& values) {
    json::Array out;
    for (const bool value : values) out.emplace_back(int(value));
    return out;
  };
  json::Value scaling;
  if (has_rope_scaling) {
    json::Object members;
    add(members, "factor", rope_scaling.factor);
    add(members, "low_freq_factor", rope_scaling.low_freq_factor);
    add(members, "high_freq_factor", rope_scaling.high_freq_factor);
    add(members, "original_max_position_embeddings", rope_scaling.original_max_position_embeddings);
    scaling = std::move(members);
  }
  json::Array ends;
  for (const int64_t id : eos_token_ids) ends.emplace_back(id);
  json::Object object;
  add(object, "architecture", architecture);
  add(object, "vocab_size", vocab_size);
  add(object, "hidden_size", hidden_size);
  add(object, "num_hidden_layers", num_hidden_layers);
  add(object, "num_attention_heads", num_attention_heads);
  add(object, "num_key_value_heads", num_key_value_heads);
  add(object, "head_dim", head_dim);
  add(object, "intermediate_size", intermediate_size);
  add(object, "intermediate_size_mlp", intermediate_size_mlp);
  add(object, "num_local_experts", num_local_experts);
  add(object, "num_experts_per_tok", num_experts_per_tok);
  add(object, "rope_layers", flags(rope_layers));
  add(object, "chunked_layers", flags(chunked_layers));
  add(object, "moe_layers", flags(moe_layers));
  add(object, "attention_chunk_size", attention_chunk_size);
  add(object, "use_qk_norm", use_qk_norm);
  add(object, "rms_norm_eps", double(rms_norm_eps));
  add(object, "rope_theta", rope_theta);
  add(object, "rope_scaling", std::move(scaling));
  add(object, "attn_temperature_tuning", attn_temperature_tuning);
  add(object, "attn_scale", attn_scale);
  add(object, "floor_scale", floor_scale);
  add(object, "max_position_embeddings", max_position_embeddings);
  add(object, "tie_word_embeddings", tie_word_embeddings);
  add(object, "bos_token_id", bos_token_id);
  add(object, "eos_token_ids", std::move(ends));
  if (vision) add(object, "vision", vision_object(*vision));
  return json::write(std::move(object));
}

}  // namespace llama4rt
