// BatchBuilder: turns the slices the scheduler chose into the arrays one step of the model reads, and owns
// them. Everything per token that the host knows is computed here: ids, slots, block tables, rotation angles
// and temperatures. It chooses nothing.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "format/model_config.h"
#include "model/batch.h"
#include "runtime/sequence.h"

namespace llama4rt {

// A row of the step whose logits are wanted.
struct OutputRow {
  size_t slice = 0;      // index into the slices
  int64_t position = 0;  // inside the slice
};

class BatchBuilder {
 public:
  BatchBuilder(const ModelConfig& config, int block_size);

  // Slices must not cross chunks. The batch is valid until the next call and while the builder lives.
  const Batch& build(std::span<const Slice> slices, std::span<const OutputRow> outputs);

 private:
  struct Group {
    std::vector<int64_t> slots;        // [T]
    std::vector<int64_t> kv_begin;     // [S]
    std::vector<int32_t> block_table;  // [S, max_blocks]
  };
  void place_images(std::span<const Slice> slices);
  void build_group(Group& group, Batch::Group& out, std::span<const Slice> slices, bool local);

  const ModelConfig& config_;
  const int64_t block_size_;
  const bool has_global_;
  const bool has_local_;
  const std::vector<float> frequencies_;  // [D/2]

  Batch batch_;
  std::vector<int32_t> token_ids_;       // [T]
  std::vector<int32_t> rows_;            // [T] 0, 1, 2, ...: rows of pictures are runs of it
  std::vector<int32_t> output_rows_;     // [outputs]
  std::vector<float> rope_;              // [T, D/2, 2]
  std::vector<float> temperature_;       // [T]
  std::vector<int32_t> query_start_;     // [S + 1]
  std::vector<int64_t> first_position_;  // [S]
  Group global_;
  Group local_;
};

}  // namespace llama4rt
