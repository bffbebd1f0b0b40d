// The promise behind recorded steps: a device replays the record of a step whose key comes again, so equal keys must
// mean equal shapes, counts and addresses.
#include "runtime/runner/batch_builder.h"

#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "model/tiny_engine.h"
#include "ops/host_device.h"
#include "test.h"

namespace llama4rt::test {
namespace {

// Memory "of its own", which happens to be the host's, so that arrays are sent there and steps get keys.
class RecordingDevice : public HostDevice {
 public:
  RecordingDevice() : HostDevice({.has_own_memory = true}) {}
  Ops& ops() override { throw Error(ErrorKind::kInternal, "nothing is computed here"); }
  std::string name() const override { return "recording"; }
  std::string describe() const override { return "recording"; }
};

// All that a recorded step holds on to.
auto recorded(const Batch& batch) {
  const auto group = [](const Batch::Group& g) {
    const AttentionBatch& a = g.attention;
    return std::make_tuple(g.slot_mapping.data, g.slot_mapping.numel(), a.num_seqs, a.max_blocks,
                           a.max_query_len, a.query_start, a.first_position, a.kv_begin, a.block_table);
  };
  return std::make_tuple(batch.num_tokens, batch.num_outputs, batch.token_ids.data, batch.output_rows.data,
                         batch.rope.data, batch.temperature.data, group(batch.global), group(batch.local));
}

TEST(steps_of_one_key_are_of_one_shape) {
  constexpr int64_t kContext = 4096, kChunk = 1024, kSeqs = 9;
  for (const auto& chunked : {std::vector<bool>{true, true, true, false}, {true, true, true, true}}) {
    SCOPE(chunked.back() ? "local layers only" : "both groups");
    ModelConfig config = tiny_config();
    config.chunked_layers = chunked;
    config.attention_chunk_size = kChunk;
    config.max_position_embeddings = kContext;
    const bool has_global = !chunked.back();
    RecordingDevice device;
    KvCachePlan plan;
    plan.block_size = 16;
    plan.attention_chunk = kChunk;
    plan.num_global_blocks = has_global ? 4096 : 0;
    plan.num_local_blocks = 4096;
    StepShape shape;
    shape.max_tokens = shape.max_outputs = shape.logit_rows = shape.max_seqs = 16;
    shape.max_context = kContext;
    shape.block_size = 16;
    BatchBuilder builder(device, config, plan, shape);

    std::map<uint64_t, decltype(recorded(Batch{}))> by_key;
    std::map<decltype(recorded(Batch{})), uint64_t> by_shape;
    std::vector<std::unique_ptr<Sequence>> sequences;
    for (int64_t i = 0; i < kSeqs; ++i) sequences.push_back(std::make_unique<Sequence>());
    // Lengths at which each of the tables is narrow or wide: a sequence early in its second chunk has few local
    // blocks and many global ones.
    for (const int64_t length : {1, 200, 256, 257, 600, 1023, 1025, 1200, 1281, 2047, 2049, 3000, 4095})
      for (int64_t count = 1; count <= kSeqs; ++count) {
        std::vector<Chunk> chunks;
        std::vector<OutputRow> outputs;
        for (int64_t i = 0; i < count; ++i) {
          Sequence& s = *sequences[size_t(i)];
          const int64_t own = i == 0 ? length : 1 + length % 7;  // the longest decides
          const int64_t position = own - 1;
          s.tokens.assign(size_t(own), 5);
          s.global_blocks.assign(has_global ? size_t((own + 15) / 16) : 0, int32_t(i));
          s.local_blocks.assign(size_t((position % kChunk + 16) / 16), int32_t(i));
          chunks.push_back({&s, position, 1});
          OutputRow& row = outputs.emplace_back();
          row.chunk = size_t(i);
          row.position = position;
        }
        SCOPE(count, " sequences, the longest of ", length);
        const auto found = recorded(builder.build(chunks, outputs));
        CHECK(builder.capture_key().has_value());
        if (!builder.capture_key()) return;
        const uint64_t key = *builder.capture_key();
        CHECK(by_key.try_emplace(key, found).first->second == found);
        CHECK_EQ(by_shape.try_emplace(found, key).first->second, key);  // and no step is recorded twice
      }
    CHECK(by_key.size() >= 12);
  }
}

}  // namespace
}  // namespace llama4rt::test
