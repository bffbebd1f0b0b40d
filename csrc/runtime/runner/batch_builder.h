// BatchBuilder: turns the chunks the scheduler chose into the arrays one step of the model reads, and owns
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
#include "model/step_shape.h"
#include "ops/device.h"
#include "runtime/runner/kv_cache.h"
#include "runtime/runner/output_row.h"
#include "runtime/sequences/sequence.h"

namespace llama4rt {

class BatchBuilder {
 public:
  // Blocks of each group that padding needs: fewer than 16 rows pad a step, and a block has at least 16
  // slots.
  static constexpr int32_t kSpareBlocks = 1;
  // The rows of a decode step of `sequences` sequences after padding.
  static int64_t padded_sequences(int64_t sequences);
  // Bytes of the block on the device.
  static int64_t device_bytes(const ModelConfig& config, const StepShape& shape);
  // The shapes of the largest batch, with arrays at an address that is never read: for measuring.
  static Batch largest(const ModelConfig& config, const StepShape& shape);

  // `device` outlives the builder. On host memory, the shape does not matter.
  BatchBuilder(Device& device, const ModelConfig& config, const KvCachePlan& plan, const StepShape& shape);
  ~BatchBuilder();
  BatchBuilder(const BatchBuilder&) = delete;
  BatchBuilder& operator=(const BatchBuilder&) = delete;

  // Chunks must not cross attention chunks. The batch is valid until the next call and while the builder lives. Of a
  // padded one, the first outputs.size() output rows are the ones asked for. With ids_are_there the chunks
  // are of one token each, whose ids stand at next_ids() when the device comes to this step.
  const Batch& build(std::span<const Chunk> chunks, std::span<const OutputRow> outputs,
                     bool ids_are_there = false);

  // Where the first token ids of every step lie on the device: null on host memory.
  int32_t* next_ids() const { return reinterpret_cast<int32_t*>(memory_); }

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
  void place_adapters(std::span<const Chunk> chunks);
  void place_images(std::span<const Chunk> chunks);
  void fill_group(Group& group, std::span<const Chunk> chunks, bool local);
  void pad_group(Group& group, int64_t first);
  void view_group(const Group& group, Batch::Group& out) const;
  bool is_decode(std::span<const Chunk> chunks, std::span<const OutputRow> outputs) const;
  void pad(std::span<const Chunk> chunks);
  void move_to_device(size_t ids_there);

  Device& device_;
  const ModelConfig& config_;
  const int64_t block_size_;
  const bool has_global_;
  const bool has_local_;
  const std::vector<float> frequencies_;  // [D/2]

  Batch batch_;
  std::vector<int32_t> token_ids_;       // [T]
  std::vector<int32_t> rows_;            // [T] 0, 1, 2, ...: rows of pictures are runs of it
  std::vector<int32_t> adapted_rows_;    // rows of the batch, adapter after adapter
  std::vector<const Chunk*> adapted_;    // chunks of those rows; of a step without adapters none
  std::vector<int32_t> output_rows_;     // [outputs]
  std::vector<float> rope_;              // [T, D/2, 2]
  std::vector<float> temperature_;       // [T]
  std::vector<int32_t> query_start_;     // [S + 1]
  std::vector<int64_t> first_position_;  // [S]
  Group global_;
  Group local_;
  std::optional<uint64_t> capture_key_;

  char* memory_ = nullptr;  // null on host memory
  const size_t device_bytes_;
  // What is sent, in turn: one is filled while the other may still be on its way.
  struct Side {
    char* memory = nullptr;
    uint64_t sent = 0;  // mark of the device; 0: nothing was
  };
  Side sides_[2];
  int side_ = 0;
};

}  // namespace llama4rt
