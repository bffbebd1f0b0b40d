#include "runtime/batch_builder.h"

#include <algorithm>

#include "base/error.h"
#include "model/rope.h"

namespace llama4rt {

BatchBuilder::BatchBuilder(const ModelConfig& config, int block_size)
    : config_(config),
      block_size_(block_size),
      has_global_(std::count(config.chunked_layers.begin(), config.chunked_layers.end(), false) > 0),
      has_local_(std::count(config.chunked_layers.begin(), config.chunked_layers.end(), true) > 0),
      frequencies_(rope_frequencies(config)) {}

const Batch& BatchBuilder::build(std::span<const Slice> slices, std::span<const OutputRow> outputs) {
  const size_t pairs = frequencies_.size();
  token_ids_.clear();
  temperature_.clear();
  rope_.clear();
  query_start_.assign(1, 0);
  first_position_.clear();
  for (const Slice& slice : slices) {
    const std::vector<int32_t>& tokens = slice.sequence->tokens;
    token_ids_.insert(token_ids_.end(), tokens.begin() + slice.begin, tokens.begin() + slice.end());
    query_start_.push_back(int32_t(token_ids_.size()));
    first_position_.push_back(slice.begin);
    for (int64_t p = slice.begin; p < slice.end(); ++p) {
      rope_.resize(rope_.size() + 2 * pairs);
      rope_angles(rope_.data() + rope_.size() - 2 * pairs, frequencies_, rope_position(config_, p));
      if (config_.attn_temperature_tuning) temperature_.push_back(attention_temperature(config_, p));
    }
  }
  output_rows_.clear();
  for (const OutputRow& row : outputs)
    output_rows_.push_back(query_start_[row.slice] + int32_t(row.position - slices[row.slice].begin));

  const auto T = int64_t(token_ids_.size());
  batch_ = {};
  batch_.num_tokens = T;
  batch_.num_outputs = int64_t(outputs.size());
  batch_.token_ids = Tensor(token_ids_.data(), DType::kI32, {T});
  batch_.output_rows = Tensor(output_rows_.data(), DType::kI32, {batch_.num_outputs});
  batch_.rope = Tensor(rope_.data(), DType::kF32, {T, int64_t(pairs), 2});
  if (config_.attn_temperature_tuning) batch_.temperature = Tensor(temperature_.data(), DType::kF32, {T});
  place_images(slices);
  if (has_global_) build_group(global_, batch_.global, slices, /*local=*/false);
  if (has_local_) build_group(local_, batch_.local, slices, /*local=*/true);
  return batch_;
}

void BatchBuilder::place_images(std::span<const Slice> slices) {
  while (rows_.size() < token_ids_.size()) rows_.push_back(int32_t(rows_.size()));
  for (size_t s = 0; s < slices.size(); ++s) {
    const Slice& slice = slices[s];
    if (!slice.sequence->images) continue;
    for (const ImageRun& run : *slice.sequence->images) {
      const int64_t begin = std::max(slice.begin, run.begin);
      const int64_t end = std::min(slice.end(), run.begin + run.embeddings.size(0));
      if (begin >= end) continue;
      int32_t* const rows = rows_.data() + query_start_[s] + (begin - slice.begin);
      batch_.images.push_back(
          {Tensor(rows, DType::kI32, {end - begin}), run.embeddings.rows(begin - run.begin, end - begin)});
    }
  }
}

void BatchBuilder::build_group(Group& group, Batch::Group& out, std::span<const Slice> slices, bool local) {
  const auto blocks_of = [local](const Slice& slice) -> const std::vector<int32_t>& {
    return local ? slice.sequence->local_blocks : slice.sequence->global_blocks;
  };
  size_t max_blocks = 1;
  int max_query_len = 0;
  for (const Slice& slice : slices) {
    max_blocks = std::max(max_blocks, blocks_of(slice).size());
    max_query_len = std::max(max_query_len, slice.count);
  }
  group.slots.clear();
  group.kv_begin.clear();
  group.block_table.assign(slices.size() * max_blocks, 0);
  for (size_t s = 0; s < slices.size(); ++s) {
    const Slice& slice = slices[s];
    const std::vector<int32_t>& blocks = blocks_of(slice);
    const int64_t begin = local ? slice.begin - slice.begin % config_.attention_chunk_size : 0;
    LLAMA4RT_ASSERT(!local || slice.end() - begin <= config_.attention_chunk_size);
    LLAMA4RT_ASSERT(int64_t(blocks.size()) * block_size_ >= slice.end() - begin);
    group.kv_begin.push_back(begin);
    std::copy(blocks.begin(), blocks.end(), group.block_table.begin() + std::ptrdiff_t(s * max_blocks));
    for (int64_t p = slice.begin - begin; p < slice.end() - begin; ++p)
      group.slots.push_back(blocks[size_t(p / block_size_)] * block_size_ + p % block_size_);
  }
  out.slot_mapping = Tensor(group.slots.data(), DType::kI64, {int64_t(group.slots.size())});
  out.attention.num_seqs = int(slices.size());
  out.attention.query_start = query_start_.data();
  out.attention.first_position = first_position_.data();
  out.attention.kv_begin = group.kv_begin.data();
  out.attention.block_table = group.block_table.data();
  out.attention.max_blocks = int(max_blocks);
  out.attention.max_query_len = max_query_len;
}

}  // namespace llama4rt
