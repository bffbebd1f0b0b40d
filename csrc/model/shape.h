// The one list of the tensors of a model: names, roles, sizes, the parts that fused matrices are made of, and
// how each would be split over devices. Loaders, random weights, the memory plan and the converter (through
// the bindings) read it; no other place states a tensor's size. No bytes of weights are read here.
//
// Letters: E experts, N outputs (stored rows), K inputs. docs/model.md explains the architecture.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "format/model_config.h"
#include "weights/weight.h"

namespace llama4rt {

// What a tensor is for. The role decides how it may be stored (storage()).
enum class TensorRole : uint8_t {
  kEmbed,   // bf16 [N, K], row-major: gathered, never multiplied
  kRouter,  // bf16 always: its ties decide which expert is read
  kLmHead,  // matrices [N, K] from here on
  kAttention,
  kDense,    // MLP of a layer without experts
  kShared,   // the expert that every token passes through
  kExperts,  // a stack of E
  kVision,
  kNorm,    // fp32 [N]: gain of a norm
  kVector,  // fp32 [N]: bias, class token
  kTable,   // fp32 [N, K]
};
const char* role_name(TensorRole role);  // "embed", "router", ...

// Rows of one matrix of a checkpoint inside a fused matrix: "q", "k", "v"; "gate", "up".
struct TensorPart {
  std::string name;  // empty: the whole tensor
  int64_t rows = 0;  // before padding

  bool operator==(const TensorPart&) const = default;
};

// How a tensor is divided among devices. Only outputs are: a sum over K stays whole, so that its bits do not
// depend on the number of devices.
enum class ShardAxis : uint8_t {
  kNone,     // every device has all of it
  kRows,     // each device has an equal share of the rows of every part
  kExperts,  // whole experts
};
const char* shard_axis_name(ShardAxis axis);  // "none", "rows", "experts"

struct TensorSpec {
  std::string name;
  TensorRole role = TensorRole::kVector;
  int64_t experts = 1;  // E
  int64_t n = 0;        // stored rows of one expert, padding included
  int64_t k = 0;        // of vectors: 1
  std::vector<TensorPart> parts;
  ShardAxis shard = ShardAxis::kNone;

  bool operator==(const TensorSpec&) const = default;
  bool is_plain() const { return role >= TensorRole::kNorm; }  // stored as fp32 numbers
  // gate|up: the parts alternate in blocks of 16 rows (cpu16::gate_row, up_row); others follow each other.
  bool interleaved() const { return parts.size() == 2; }
  std::vector<int64_t> plain_shape() const;  // [N] or [N, K]
  // The stored row of row `row` of part `part`.
  int64_t stored_row(size_t part, int64_t row) const;
};

// Every tensor of the model in the order of an engine file; the vision tower's last, where the config has
// one.
std::vector<TensorSpec> model_tensors(const ModelConfig& config);
std::vector<TensorSpec> text_tensors(const ModelConfig& config);
std::vector<TensorSpec> vision_tensors(const ModelConfig& config);

// How the matrices of a model are stored, in the words of llama4rt.build.
struct WeightOptions {
  WeightKind weights = WeightKind::kInt4;
  int group_size = 128;
  bool experts_only = false;  // quantize="experts": routed and shared experts alone
  WeightKind lm_head = WeightKind::kBF16;
  WeightKind vision = WeightKind::kBF16;
  Layout layout = Layout::kCpu16;
};

// The matrix of `spec` as `options` store it: bf16 scales, no zero points, no pointers. Not for plain
// tensors.
Weight stored_weight(const TensorSpec& spec, const WeightOptions& options);

// Bytes of the parts of a stored tensor: values, and for quantised weights scales.
struct TensorBytes {
  int64_t data = 0;
  int64_t scales = 0;
  int64_t total() const { return data + scales; }
};
TensorBytes stored_bytes(const TensorSpec& spec, const WeightOptions& options);

}  // namespace llama4rt
