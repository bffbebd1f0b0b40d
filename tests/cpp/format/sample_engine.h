// A complete engine file of a tiny model, in every kind of weight the format has, and the means to take its
// header apart and put it together again with a correct checksum. Used by the format tests and the fuzz
// driver.
#pragma once

#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/temp_dir.h"
#include "format/engine_file.h"
#include "format/engine_writer.h"
#include "weights/layout.h"
#include "weights/sample_weights.h"

namespace llama4rt::test {

inline const char* sample_config() {
  return R"({"architecture":"Llama4ForCausalLM","vocab_size":40,"hidden_size":32,"num_hidden_layers":2,)"
         R"("num_attention_heads":2,"num_key_value_heads":1,"head_dim":16,"intermediate_size":20,)"
         R"("intermediate_size_mlp":48,"num_local_experts":2,"num_experts_per_tok":1,"rope_layers":[1,0],)"
         R"("chunked_layers":[1,0],"moe_layers":[1,0],"attention_chunk_size":32,"use_qk_norm":true,)"
         R"("rms_norm_eps":1e-05,"rope_theta":500000.0,"rope_scaling":null,"attn_temperature_tuning":true,)"
         R"("attn_scale":0.1,"floor_scale":8192.0,"max_position_embeddings":4096,)"
         R"("tie_word_embeddings":false,"bos_token_id":1,"eos_token_ids":[2]})";
}

// With a vision tower of one layer: tiles of 8 pixels, 4 tokens each.
inline std::string sample_vision_config() {
  std::string text = sample_config();
  text.insert(text.size() - 1,
              R"(,"vision":{"hidden_size":8,"num_hidden_layers":1,"num_attention_heads":2,)"
              R"("intermediate_size":32,"adapter_hidden_size":20,"output_dim":12,"image_size":8,)"
              R"("patch_size":2,"rope_theta":10000.0,"norm_eps":1e-05,"patch_token_id":39})");
  return text;
}

inline std::vector<std::pair<std::string, std::string>> sample_metadata() {
  return {{"format", "llama4rt engine"},
          {"format_version", "1"},
          {"llama4rt_version", "0.1.0"},
          {"target", "cpu"},
          {"layout", "cpu16"},
          {"config", sample_config()},
          {"quantization", R"({"weights":"int4","group_size":32,"quantize":"linear","lm_head":"bf16"})"},
          {"source", R"({"hash":"0","name":"sample","skipped":[]})"},
          {"files", R"(["tokenizer.model"])"},
          {"licenses", "[]"}};
}

// Writes the sample: one MoE layer with RoPE and chunks, one dense layer without; small enough that a test
// can try every truncation and every bit of its header. With `vision`, it looks at pictures.
inline void write_sample_engine(const std::string& path, int num_threads = 1, bool vision = false) {
  constexpr int64_t kHidden = 32, kQkv = 64, kVocab = 40, kExpertWidth = 20, kDenseWidth = 48;
  using enum WeightKind;
  struct Planned {
    std::string name;
    Weight shape;
    bool zeros = false;
    int64_t gate_up_width = 0;  // rows are the interleaved halves of this many
    bool offsets = false;
  };
  std::vector<Planned> weights = {
      {"layers.0.attn.qkv", weight_shape(kInt4, 1, kQkv, kHidden)},
      {"layers.0.attn.o", weight_shape(kInt4, 1, kHidden, kHidden, 32, DType::kF32), true},
      {"layers.0.moe.router", weight_shape(kBF16, 1, 2, kHidden)},
      {"layers.0.moe.shared.gate_up", weight_shape(kInt8, 1, 64, kHidden), false, kExpertWidth},
      {"layers.0.moe.shared.down", weight_shape(kInt4, 1, kHidden, kExpertWidth)},
      {"layers.0.moe.gate_up", weight_shape(kInt4, 2, 64, kHidden), false, kExpertWidth},
      {"layers.0.moe.down", weight_shape(kInt8, 2, kHidden, kExpertWidth)},
      {"layers.1.attn.qkv", weight_shape(kTable4, 1, kQkv, kHidden, 16, DType::kF8E4M3)},
      {"layers.1.attn.o", weight_shape(kInt8, 1, kHidden, kHidden, 16, DType::kI8), false, 0, true},
      {"layers.1.mlp.gate_up", weight_shape(kFp8, 1, 96, kHidden), false, kDenseWidth},
      {"layers.1.mlp.down", weight_shape(kBF16, 1, kHidden, kDenseWidth)},
      {"lm_head", weight_shape(kBF16, 1, kVocab, kHidden)},
  };
  for (Planned& w : weights)
    if (w.offsets) w.shape.factor_dtype = DType::kF16;
  // Plain F32 tensors.
  std::vector<std::pair<std::string, std::vector<int64_t>>> plain = {{"norm", {kHidden}},
                                                                     {"layers.0.attn_norm", {kHidden}},
                                                                     {"layers.0.ffn_norm", {kHidden}},
                                                                     {"layers.1.attn_norm", {kHidden}},
                                                                     {"layers.1.ffn_norm", {kHidden}}};
  if (vision) {
    constexpr int64_t kWidth = 8, kMlp = 32, kAdapter = 20, kOut = 12, kPatches = 16, kPatch = 12;
    const auto linear = [&](const std::string& name, WeightKind kind, int64_t n, int64_t k) {
      weights.push_back({name, weight_shape(kind, 1, n, k)});
      plain.push_back({name + ".bias", {n}});
    };
    const auto norm = [&](const std::string& name) {
      plain.push_back({name + ".weight", {kWidth}});
      plain.push_back({name + ".bias", {kWidth}});
    };
    weights.push_back({"vision.patch_embedding", weight_shape(kBF16, 1, kWidth, kPatch)});
    plain.push_back({"vision.class_embedding", {kWidth}});
    plain.push_back({"vision.positional_embedding", {kPatches + 1, kWidth}});
    norm("vision.pre_norm");
    norm("vision.layers.0.attn_norm");
    linear("vision.layers.0.attn.qkv", kBF16, 3 * kWidth, kWidth);
    linear("vision.layers.0.attn.o", kBF16, kWidth, kWidth);
    norm("vision.layers.0.mlp_norm");
    linear("vision.layers.0.mlp.fc1", kBF16, kMlp, kWidth);
    linear("vision.layers.0.mlp.fc2", kInt8, kWidth, kMlp);
    norm("vision.post_norm");
    weights.push_back({"vision.adapter.fc1", weight_shape(kInt8, 1, kAdapter, kMlp)});
    weights.push_back({"vision.adapter.fc2", weight_shape(kBF16, 1, kOut, kAdapter)});
    weights.push_back({"vision.projector", weight_shape(kBF16, 1, kHidden, kOut)});
  }
  EngineWriter writer(path, num_threads);
  writer.declare_tensor("files/tokenizer.model", "U8", {11});
  writer.declare_tensor("embed", "BF16", {kVocab, kHidden});
  for (const auto& [name, shape] : plain) writer.declare_tensor(name, "F32", shape);
  for (const Planned& w : weights) writer.declare_weight(w.name, w.shape, w.zeros, w.offsets);
  writer.begin(1024);

  const std::string tokenizer = "a tokenizer";
  writer.write_tensor("files/tokenizer.model", std::as_bytes(std::span(tokenizer)));
  for (const auto& [name, shape] : plain) {
    int64_t count = 1;
    for (const int64_t dim : shape) count *= dim;
    const std::vector<float> ones(size_t(count), 1.0f);
    writer.write_tensor(name, std::as_bytes(std::span(ones)));
  }
  writer.quantize_rows("embed", 0, row_range(0, kVocab),
                       source_of(gaussian(size_t(kVocab * kHidden), 1), kVocab, kHidden));
  uint32_t seed = 2;
  for (const Planned& w : weights) {
    const int64_t n = w.shape.n, k = w.shape.k;
    for (int64_t expert = 0; expert < w.shape.num_experts; ++expert) {
      const std::vector<float> values = gaussian(size_t(n * k), seed++);
      if (w.zeros || w.offsets || w.shape.kind == kTable4) {
        const int64_t groups = w.shape.num_groups();
        std::vector<uint8_t> codes(size_t(n * k)), zeros(size_t(n * groups));
        for (size_t i = 0; i < codes.size(); ++i) codes[i] = uint8_t(i * 7 % 16);
        for (size_t i = 0; i < zeros.size(); ++i) zeros[i] = uint8_t(i % 16);
        // 0.01 and -0.25, as numbers or as numbers times factors.
        const size_t columns = size_t(n * side_columns(w.shape, Side::kFactors));
        const std::vector<float> scales(zeros.size(), 0.01f), factors(columns, 0.005f);
        const std::vector<fp16> half_factors(columns, fp16{0x1d1f});    // 0.005
        const std::vector<fp16> offset_factors(columns, fp16{0xb000});  // -0.125
        const std::vector<bf16> halves(zeros.size(), to_bf16(0.01f));
        const std::vector<int8_t> twos(zeros.size(), 2);
        const bool factored = has_factors(w.shape.scale_dtype), halved = w.shape.factor_dtype == DType::kF16;
        const void* of_scales = halved ? static_cast<const void*>(half_factors.data()) : factors.data();
        const void* sides = halves.data();
        if (factored) sides = twos.data();
        if (w.shape.scale_dtype == DType::kF32) sides = scales.data();
        writer.import_rows(w.name, expert, row_range(0, n),
                           {.codes = codes.data(),
                            .scales = sides,
                            .zeros = w.zeros ? zeros.data() : nullptr,
                            .offsets = w.offsets ? twos.data() : nullptr,
                            .factors = factored ? of_scales : nullptr,
                            .offset_factors = factored && w.offsets ? offset_factors.data() : nullptr,
                            .rows = n},
                           w.shape.scale_dtype);
      } else if (w.gate_up_width > 0) {
        std::vector<int64_t> gate, up;
        for (int64_t f = 0; f < w.gate_up_width; ++f) {
          gate.push_back(cpu16::gate_row(f));
          up.push_back(cpu16::up_row(f));
        }
        const SourceMatrix half = source_of(values, w.gate_up_width, k);
        writer.quantize_rows(w.name, expert, gate, half);
        writer.quantize_rows(w.name, expert, up, half);
      } else {
        writer.quantize_rows(w.name, expert, row_range(0, n), source_of(values, n, k));
      }
    }
  }
  auto metadata = sample_metadata();
  for (auto& [key, value] : metadata)
    if (key == "config" && vision) value = sample_vision_config();
  writer.finish(metadata);
}

// --- taking a file apart

inline uint64_t header_length(const std::string& file) {
  uint64_t length = 0;
  std::memcpy(&length, file.data(), std::min<size_t>(8, file.size()));
  return length;
}

// The JSON text without its padding.
inline std::string header_text(const std::string& file) {
  std::string text = file.substr(8, header_length(file));
  text.resize(text.find_last_not_of(' ') + 1);
  return text;
}

inline std::string payload(const std::string& file) { return file.substr(8 + header_length(file)); }

// Puts the right digits where header_checksum's are, if the header has room for them.
inline void seal(std::string& file) {
  if (file.size() < 8) return;
  const uint64_t length = header_length(file);
  if (length > file.size() - 8) return;
  const std::string key = "\"header_checksum\":\"";
  const std::string_view header(file.data() + 8, length);
  const size_t at = header.find(key);
  if (at == std::string_view::npos || at + key.size() + 16 > header.size()) return;
  const uint64_t sum = engine_format::header_checksum(std::as_bytes(std::span(header)), at + key.size());
  file.replace(8 + at + key.size(), 16, engine_format::hex16(sum));
}

// The inverse: header length, header padded to the data alignment, payload, sealed.
inline std::string assemble(std::string header, const std::string& data) {
  const size_t padded = round_up(8 + header.size(), size_t(engine_format::kDataAlignment)) - 8;
  header.resize(padded, ' ');
  std::string file(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(file.data(), &length, 8);
  file += header + data;
  seal(file);
  return file;
}

// The message of the Error that opening these bytes ends in; empty when they open.
inline std::string open_error(const std::string& path, const std::string& bytes) {
  write_file(path, bytes);
  try {
    const EngineFile file(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace llama4rt::test
