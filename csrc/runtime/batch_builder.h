// BatchBuilder: turns the slices the scheduler chose into the arrays one step of the model reads, and owns
// them. Everything per token that the host knows is computed here: ids, slots, block tables, rotation angles
// and temperatures. It chooses nothing.
//
// On a device with memory of its own the arrays lie in one block there, sent with one copy per step. A pure
// decode step is padded to one of a few shapes, so that equal shapes have their arrays at equal addresses and
// the device may replay a recorded step. Rows of padding write to spare blocks of the cache and nobody reads
// what they compute.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "format/model_config.h"
#include "model/batch.h"
#include "ops/backend.h"
#include "runtime/kv_cache.h"
#include "runtime/sequence.h"

namespace llama4rt {

// A row of the step whose logits are wanted.
struct OutputRow {
  size_t slice = 0;      // index into the slices
  int64_t position = 0;  // inside the slice
};

struct BatchLimits {
  int64_t max_tokens = 0;
  int64_t max_outputs = 0;
  int64_t max_num_seqs = 0;  // without padding
  int64_t max_model_len = 0;
  int block_size = 0;
};

class BatchBuilder {
 public:
  // Blocks of each group that padding needs: fewer than 16 rows pad a step, and a block has at least 16
  // slots.
  static constexpr int32_t kSpareBlocks = 1;
  // The rows of a decode step of `sequences` sequences after padding.
  static int64_t padded_sequences(int64_t sequences);
  // Bytes of the block on the device.
  static int64_t device_bytes(const ModelConfig& config, const BatchLimits& limits);

  // `backend` outlives the builder. On host memory, limits do not matter.
  BatchBuilder(Backend& backend, const ModelConfig& config, const KvCachePlan& plan,
               const BatchLimits& limits);
  ~BatchBuilder();
  BatchBuilder(const BatchBuilder&) = delete;
  BatchBuilder& operator=(const BatchBuilder&) = delete;

  // Slices must not cross chunks. The batch is valid until the next call and while the builder lives. Of a
  // padded one, the first outputs.size() output rows are the ones asked for. With ids_are_there the slices
  // are of one token each, whose ids stand at next_ids() when the device comes to this step.
  const Batch& build(std::span<const Slice> slices, std::span<const OutputRow> outputs,
                     bool ids_are_there = false);

  // Where the first token ids of every step lie on the device: null on host memory.
  int32_t* next_ids() const { return reinterpret_cast<int32_t*>(device_); }

  // The same for steps with the same addresses, shapes and counts; empty for a step that will not come again.
  std::optional<uint64_t> capture_key() const { return capture_key_; }

 private:
  struct Group {
    std::vector<int64_t> slots;        // [T]
    std::vector<int64_t> kv_begin;     // [S]
    std::vector<int32_t> block_table;  // [S, max_blocks]
    int64_t max_blocks = 0;
    int32_t spare = 0;  // first spare block
  };
  void add_position(int64_t position);
  void place_images(std::span<const Slice> slices);
  void fill_group(Group& group, std::span<const Slice> slices, bool local);
  void pad_group(Group& group, int64_t first);
  void view_group(const Group& group, Batch::Group& out) const;
  bool is_decode(std::span<const Slice> slices, std::span<const OutputRow> outputs) const;
  void pad(std::span<const Slice> slices);
  void move_to_device(size_t ids_there);

  Backend& backend_;
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
  std::optional<uint64_t> capture_key_;

  char* device_ = nullptr;  // null on host memory
  const size_t device_bytes_;
  // What is sent, in turn: one is filled while the other may still be on its way.
  struct Side {
    char* memory = nullptr;
    uint64_t sent = 0;  // mark of the backend; 0: nothing was
  };
  Side sides_[2];
  int side_ = 0;
};

}  // namespace llama4rt
