#include "runtime/runner/batch_builder.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/checked_math.h"
#include "base/error.h"
#include "model/rope.h"
#include "ops/measure.h"

namespace llama4rt {
namespace {

constexpr int64_t kArrayAlignment = 256;

// Block tables of recorded steps are as wide as the next power of two, so that a sequence that grows changes
// shape seldom.
int64_t padded_blocks(int64_t blocks) {
  return int64_t(std::bit_ceil(uint64_t(std::max<int64_t>(blocks, 16))));
}

template <class T>
int64_t array_bytes(int64_t count) {
  return round_up(count * int64_t(sizeof(T)), kArrayAlignment);
}

}  // namespace

int64_t BatchBuilder::padded_sequences(int64_t sequences) {
  if (sequences <= 2) return sequences;
  if (sequences <= 4) return 4;
  return sequences <= 64 ? round_up(sequences, int64_t(8)) : round_up(sequences, int64_t(16));
}

int64_t BatchBuilder::device_bytes(const ModelConfig& c, const StepShape& shape) {
  const int64_t T = shape.max_tokens, S = shape.max_seqs;
  const auto table = [&](int64_t tokens) {
    return array_bytes<int32_t>(S * padded_blocks(ceil_div(tokens, int64_t(shape.block_size))));
  };
  const int64_t local = std::min(c.attention_chunk_size, shape.max_context);
  return 2 * array_bytes<int32_t>(T) + array_bytes<int32_t>(shape.max_outputs) +
         array_bytes<float>(T * c.head_dim) + array_bytes<float>(T) + array_bytes<int32_t>(S + 1) +
         3 * array_bytes<int64_t>(S) + 2 * array_bytes<int64_t>(T) + table(shape.max_context) + table(local);
}

Batch BatchBuilder::largest(const ModelConfig& c, const StepShape& shape) {
  void* const nowhere = MeasuringDevice::no_memory();
  const int64_t T = shape.max_tokens;
  Batch batch;
  batch.num_tokens = T;
  batch.num_outputs = shape.max_outputs;
  batch.token_ids = Tensor(nowhere, DType::kI32, {T});
  batch.output_rows = Tensor(nowhere, DType::kI32, {shape.max_outputs});
  batch.rope = Tensor(nowhere, DType::kF32, {T, c.head_dim / 2, 2});
  if (c.attn_temperature_tuning) batch.temperature = Tensor(nowhere, DType::kF32, {T});
  const auto group = [&](Batch::Group& out, int64_t tokens) {
    out.slot_mapping = Tensor(nowhere, DType::kI64, {T});
    AttentionBatch& a = out.attention;
    a.num_seqs = int(std::max<int64_t>(shape.max_seqs, 1));
    a.query_start = static_cast<const int32_t*>(nowhere);
    a.first_position = a.kv_begin = static_cast<const int64_t*>(nowhere);
    a.block_table = static_cast<const int32_t*>(nowhere);
    a.max_blocks = int(padded_blocks(ceil_div(tokens, int64_t(shape.block_size))));
    a.max_query_len = int(T);
  };
  group(batch.global, shape.max_context);
  group(batch.local, std::min(c.attention_chunk_size, shape.max_context));
  return batch;
}

BatchBuilder::BatchBuilder(Device& device, const ModelConfig& config, const KvCachePlan& plan,
                           const StepShape& shape)
    : device_(device),
      config_(config),
      block_size_(plan.block_size),
      has_global_(std::count(config.chunked_layers.begin(), config.chunked_layers.end(), false) > 0),
      has_local_(std::count(config.chunked_layers.begin(), config.chunked_layers.end(), true) > 0),
      frequencies_(rope_frequencies(config)),
      device_bytes_(!device.traits().has_own_memory ? 0 : size_t(device_bytes(config, shape))) {
  global_.spare = plan.num_global_blocks;
  local_.spare = plan.num_local_blocks;
  if (device_bytes_ == 0) return;
  memory_ = static_cast<char*>(device.allocate(device_bytes_));
  for (Side& side : sides_) side.memory = static_cast<char*>(device.allocate_staging(device_bytes_));
}

BatchBuilder::~BatchBuilder() {
  if (!memory_) return;
  for (const Side& side : sides_) {
    try {
      if (side.sent > 0) device_.wait_for(side.sent);
    } catch (const Error&) {  // of a step; who waited for it has heard
    }
    device_.deallocate_staging(side.memory);
  }
  device_.deallocate(memory_, device_bytes_);
}

const Batch& BatchBuilder::build(std::span<const Chunk> chunks, std::span<const OutputRow> outputs,
                                 bool ids_are_there) {
  token_ids_.clear();
  temperature_.clear();
  rope_.clear();
  query_start_.assign(1, 0);
  first_position_.clear();
  for (const Chunk& chunk : chunks) {
    const std::vector<int32_t>& tokens = chunk.sequence->tokens;
    if (ids_are_there)
      token_ids_.push_back(0);
    else
      token_ids_.insert(token_ids_.end(), tokens.begin() + chunk.begin, tokens.begin() + chunk.known_end());
    token_ids_.insert(token_ids_.end(), chunk.guesses.begin(), chunk.guesses.end());
    query_start_.push_back(int32_t(token_ids_.size()));
    first_position_.push_back(chunk.begin);
    for (int64_t p = chunk.begin; p < chunk.end(); ++p) add_position(p);
  }
  output_rows_.clear();
  for (const OutputRow& row : outputs)
    output_rows_.push_back(query_start_[row.chunk] + int32_t(row.position - chunks[row.chunk].begin));
  if (has_global_) fill_group(global_, chunks, /*local=*/false);
  if (has_local_) fill_group(local_, chunks, /*local=*/true);
  batch_ = {};
  place_images(chunks);
  place_adapters(chunks);
  capture_key_.reset();
  if (memory_ && is_decode(chunks, outputs)) pad(chunks);

  const auto T = int64_t(token_ids_.size());
  batch_.num_tokens = T;
  batch_.num_outputs = int64_t(output_rows_.size());
  batch_.token_ids = Tensor(token_ids_.data(), DType::kI32, {T});
  batch_.output_rows = Tensor(output_rows_.data(), DType::kI32, {batch_.num_outputs});
  batch_.rope = Tensor(rope_.data(), DType::kF32, {T, int64_t(frequencies_.size()), 2});
  if (config_.attn_temperature_tuning) batch_.temperature = Tensor(temperature_.data(), DType::kF32, {T});
  if (has_global_) view_group(global_, batch_.global);
  if (has_local_) view_group(local_, batch_.local);
  if (memory_) move_to_device(ids_are_there ? chunks.size() : 0);
  return batch_;
}

void BatchBuilder::add_position(int64_t position) {
  const size_t pairs = frequencies_.size();
  rope_.resize(rope_.size() + 2 * pairs);
  rope_angles(rope_.data() + rope_.size() - 2 * pairs, frequencies_, rope_position(config_, position));
  if (config_.attn_temperature_tuning) temperature_.push_back(attention_temperature(config_, position));
}

// Rows grouped by adapter, in the order in which the adapters come first.
void BatchBuilder::place_adapters(std::span<const Chunk> chunks) {
  adapted_.clear();
  for (const Chunk& chunk : chunks)
    if (chunk.sequence->adapter) adapted_.push_back(&chunk);
  if (adapted_.empty()) return;
  LLAMA4RT_CHECK(kInternal, !memory_, "a step on a device with memory of its own has adapters");
  adapted_rows_.clear();
  adapted_rows_.reserve(token_ids_.size());  // rows are viewed while more come
  for (size_t i = 0; i < adapted_.size(); ++i) {
    if (!adapted_[i]) continue;
    const Adapter* const adapter = adapted_[i]->sequence->adapter.get();
    int32_t* const first = adapted_rows_.data() + adapted_rows_.size();
    for (size_t j = i; j < adapted_.size(); ++j) {
      if (!adapted_[j] || adapted_[j]->sequence->adapter.get() != adapter) continue;
      const auto s = size_t(std::exchange(adapted_[j], nullptr) - chunks.data());
      for (int32_t row = query_start_[s]; row < query_start_[s + 1]; ++row) adapted_rows_.push_back(row);
    }
    const int64_t rows = adapted_rows_.data() + adapted_rows_.size() - first;
    batch_.adapted.push_back({adapter, Tensor(first, DType::kI32, {rows})});
  }
}

void BatchBuilder::place_images(std::span<const Chunk> chunks) {
  while (rows_.size() < token_ids_.size()) rows_.push_back(int32_t(rows_.size()));
  for (size_t s = 0; s < chunks.size(); ++s) {
    const Chunk& chunk = chunks[s];
    if (!chunk.sequence->images) continue;
    for (const ImageRun& run : *chunk.sequence->images) {
      const int64_t begin = std::max(chunk.begin, run.begin);
      const int64_t end = std::min(chunk.end(), run.begin + run.embeddings.size(0));
      if (begin >= end) continue;
      int32_t* const rows = rows_.data() + query_start_[s] + (begin - chunk.begin);
      batch_.images.push_back(
          {Tensor(rows, DType::kI32, {end - begin}), run.embeddings.rows(begin - run.begin, end - begin)});
    }
  }
}

void BatchBuilder::fill_group(Group& group, std::span<const Chunk> chunks, bool local) {
  const auto blocks_of = [local](const Chunk& chunk) -> const std::vector<int32_t>& {
    return local ? chunk.sequence->local_blocks : chunk.sequence->global_blocks;
  };
  size_t max_blocks = 1;
  for (const Chunk& chunk : chunks) max_blocks = std::max(max_blocks, blocks_of(chunk).size());
  group.max_blocks = int64_t(max_blocks);
  group.slots.clear();
  group.kv_begin.clear();
  group.block_table.assign(chunks.size() * max_blocks, 0);
  for (size_t s = 0; s < chunks.size(); ++s) {
    const Chunk& chunk = chunks[s];
    const std::vector<int32_t>& blocks = blocks_of(chunk);
    const int64_t begin = local ? chunk.begin - chunk.begin % config_.attention_chunk_size : 0;
    LLAMA4RT_ASSERT(!local || chunk.end() - begin <= config_.attention_chunk_size);
    LLAMA4RT_ASSERT(int64_t(blocks.size()) * block_size_ >= chunk.end() - begin);
    group.kv_begin.push_back(begin);
    std::copy(blocks.begin(), blocks.end(), group.block_table.begin() + std::ptrdiff_t(s * max_blocks));
    for (int64_t p = chunk.begin - begin; p < chunk.end() - begin; ++p)
      group.slots.push_back(blocks[size_t(p / block_size_)] * block_size_ + p % block_size_);
  }
}

void BatchBuilder::view_group(const Group& group, Batch::Group& out) const {
  // Tensor has no const form; ops only read these.
  out.slot_mapping =
      Tensor(const_cast<int64_t*>(group.slots.data()), DType::kI64, {int64_t(group.slots.size())});
  out.attention.num_seqs = int(first_position_.size());
  out.attention.query_start = query_start_.data();
  out.attention.first_position = first_position_.data();
  out.attention.kv_begin = group.kv_begin.data();
  out.attention.block_table = group.block_table.data();
  out.attention.max_blocks = int(group.max_blocks);
  out.attention.max_query_len = 0;
  for (size_t s = 0; s + 1 < query_start_.size(); ++s)
    out.attention.max_query_len =
        std::max(out.attention.max_query_len, query_start_[s + 1] - query_start_[s]);
}

// --- decode steps that come again

// One new token of every sequence, which decides the next one, and no picture.
bool BatchBuilder::is_decode(std::span<const Chunk> chunks, std::span<const OutputRow> outputs) const {
  return batch_.images.empty() && outputs.size() == chunks.size() &&
         std::all_of(chunks.begin(), chunks.end(), [](const Chunk& chunk) { return chunk.count == 1; });
}

// Row i of the padding is a sequence of its own in the spare block: its token at position i sees the rows of
// padding before it.
void BatchBuilder::pad(std::span<const Chunk> chunks) {
  const auto real = int64_t(chunks.size()), rows = padded_sequences(real);
  LLAMA4RT_ASSERT(rows - real <= kSpareBlocks * block_size_);
  for (int64_t i = 0; i < rows - real; ++i) {
    token_ids_.push_back(0);
    add_position(i);
    output_rows_.push_back(int32_t(real + i));
    query_start_.push_back(int32_t(real + i + 1));
    first_position_.push_back(i);
  }
  if (has_global_) pad_group(global_, real);
  if (has_local_) pad_group(local_, real);
  const auto log2 = [](const Group& group) { return uint64_t(std::countr_zero(uint64_t(group.max_blocks))); };
  capture_key_ =
      uint64_t(rows) | (has_global_ ? log2(global_) : 0) << 32 | (has_local_ ? log2(local_) : 0) << 40;
}

void BatchBuilder::pad_group(Group& group, int64_t first) {
  const auto rows = int64_t(first_position_.size());
  const int64_t narrow = std::exchange(group.max_blocks, padded_blocks(group.max_blocks));
  std::vector<int32_t> table(size_t(rows * group.max_blocks), 0);
  for (int64_t s = 0; s < first; ++s)
    std::copy_n(group.block_table.begin() + s * narrow, narrow, table.begin() + s * group.max_blocks);
  for (int64_t s = first; s < rows; ++s) {
    table[size_t(s * group.max_blocks)] = group.spare;
    group.slots.push_back(int64_t(group.spare) * block_size_ + (s - first));
    group.kv_begin.push_back(0);
  }
  group.block_table = std::move(table);
}

// --- device memory

// Sends every array, but for so many of the first ids, and makes the batch point at where they are then.
// Places depend on sizes alone.
void BatchBuilder::move_to_device(size_t ids_there) {
  Side& side = sides_[side_];
  side_ = 1 - side_;
  if (side.sent > 0) device_.wait_for(side.sent);
  size_t end = 0;
  const auto send = [&](const auto& array) {
    using Element = std::remove_cvref_t<decltype(array[0])>;
    const size_t at = end, bytes = array.size() * sizeof(Element);
    end += round_up(bytes, size_t(kArrayAlignment));
    LLAMA4RT_CHECK(kInternal, end <= device_bytes_, "a step's arrays take ", end, " bytes or more; ",
                   device_bytes_, " are planned");
    if (bytes > 0) std::memcpy(side.memory + at, array.data(), bytes);
    return reinterpret_cast<Element*>(memory_ + at);
  };
  const auto send_group = [&](const Group& group, Batch::Group& out) {
    out.slot_mapping.data = send(group.slots);
    out.attention.kv_begin = send(group.kv_begin);
    out.attention.block_table = send(group.block_table);
  };
  batch_.token_ids.data = send(token_ids_);
  batch_.output_rows.data = send(output_rows_);
  batch_.rope.data = send(rope_);
  if (config_.attn_temperature_tuning) batch_.temperature.data = send(temperature_);
  const int32_t* const query_start = send(query_start_);
  const int64_t* const first_position = send(first_position_);
  if (has_global_) send_group(global_, batch_.global);
  if (has_local_) send_group(local_, batch_.local);
  for (Batch::Group* group : {&batch_.global, &batch_.local}) {
    group->attention.query_start = query_start;
    group->attention.first_position = first_position;
  }
  if (!batch_.images.empty()) {
    const int32_t* const host_rows = rows_.data();
    int32_t* const rows = send(std::span<const int32_t>(rows_).first(token_ids_.size()));
    for (Batch::Image& image : batch_.images)
      image.rows.data = rows + (image.rows.ptr<int32_t>() - host_rows);
  }
  const size_t begin = ids_there * sizeof(int32_t);
  device_.copy_to_device_async(memory_ + begin, side.memory + begin, end - begin);
  side.sent = device_.mark();
}

}  // namespace llama4rt
