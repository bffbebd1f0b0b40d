// Paged attention: cuts the queries of a step into units (a few tokens of one sequence, one KV head with all
// its query heads) and shares them. A single token with a long context is cut into splits of its keys as
// well.
#include <algorithm>

#include "cpu/cpu_ops.h"
#include "ops/kv_rotation.h"

namespace llama4rt {

using cpu::AttentionTile;
using cpu::kMaxAttentionRows;
using cpu::kSplitKeys;

namespace {
// Multiplications up to which one thread attends alone: to wake the others costs as long.
constexpr int64_t kAlone = int64_t(64) << 10;
// Query rows of a unit of a prompt, which pass each split of the keys together, while it is in the second cache; fewer
// where there would not be so many units for each thread.
constexpr int64_t kUnitRows = 128;
constexpr int64_t kUnitsPerMember = 8;
}  // namespace

struct CpuOps::AttentionCall {
  Tensor out, q;
  const KvLayer& kv;
  const AttentionBatch& batch;
  float scale;
  int64_t group;       // query heads per KV head
  int64_t state_size;  // floats of one row's state

  int64_t num_queries(int seq) const { return batch.query_start[seq + 1] - batch.query_start[seq]; }
  // Keys that token `token` of the sequence sees.
  int64_t num_keys(int seq, int64_t token) const {
    return batch.first_position[seq] + token - batch.kv_begin[seq] + 1;
  }
  int64_t num_splits(int seq, int64_t token) const { return ceil_div(num_keys(seq, token), kSplitKeys); }
  float* out_head(int seq, int64_t token, int64_t head) const {
    return out.row<float>(batch.query_start[seq] + token) + head * kv.head_dim;
  }
  // Turns the state of a row, which is finished, into its output.
  void finish(const cpu::Kernels& kernels, float* row_out, const float* row_state) const {
    kernels.finish_state(row_out, row_state, kv.head_dim);
    if (kv_format(kv.format).rotated) rotate_head(row_out, kv.head_dim);
  }
  // Query heads [first, first + count) of the tokens of a unit that go with its KV head, tokens ascending.
  AttentionTile tile(const AttentionUnit& unit, int64_t first_row, int64_t rows) const {
    AttentionTile t;
    t.num_rows = int(rows);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t token = unit.token + (first_row + i) / group, head = (first_row + i) % group;
      t.q[i] = q.row<const float>(batch.query_start[unit.seq] + token) +
               (unit.kv_head * group + head) * kv.head_dim;
      t.num_keys[i] = num_keys(unit.seq, token);
    }
    t.kv = &kv;
    t.kv_head = unit.kv_head;
    t.blocks = batch.block_table + int64_t(unit.seq) * batch.max_blocks;
    t.scale = scale;
    return t;
  }
};

// Fills attention_units_, and merges_ with those tokens whose splits are computed apart.
void CpuOps::plan_attention(const AttentionCall& call) {
  attention_units_.clear();
  merges_.clear();
  const auto tokens_of = [&](int64_t rows) { return std::max<int64_t>(1, rows / call.group); };
  const auto units_of = [&](int64_t tokens) {
    int64_t units = 0;
    for (int seq = 0; seq < call.batch.num_seqs; ++seq) units += ceil_div(call.num_queries(seq), tokens);
    return units * call.kv.num_kv_heads;
  };
  int64_t unit_rows = kUnitRows;
  while (unit_rows > kMaxAttentionRows && units_of(tokens_of(unit_rows)) < kUnitsPerMember * team_.size())
    unit_rows /= 2;
  const int64_t tokens_per_unit = tokens_of(unit_rows);
  int64_t state_rows = 0;
  for (int seq = 0; seq < call.batch.num_seqs; ++seq) {
    const int64_t num_queries = call.num_queries(seq), splits = call.num_splits(seq, 0);
    if (num_queries == 1 && splits > 1) {
      for (int64_t head = 0; head < call.kv.num_kv_heads; ++head) {
        merges_.push_back({seq, 0, 1, head, splits, state_rows});
        for (int64_t p = 0; p < splits; ++p, state_rows += call.group)
          attention_units_.push_back({seq, 0, 1, head, p, state_rows});
      }
      continue;
    }
    for (int64_t head = 0; head < call.kv.num_kv_heads; ++head)
      for (int64_t token = 0; token < num_queries; token += tokens_per_unit)
        attention_units_.push_back(
            {seq, token, int(std::min(tokens_per_unit, num_queries - token)), head, -1, 0});
  }
  attention_states_.get<float>(state_rows * call.state_size);
}

void CpuOps::reserve_attention(int64_t rows, int64_t head_dim) {
  for (Member& m : members_) {
    m.kernel.get<std::byte>(kernels_.attention_scratch_bytes());
    m.states.get<float>((rows + kMaxAttentionRows) * cpu::attention_state_floats(head_dim));
  }
}

const float* CpuOps::attend_all(int member, std::span<const AttentionTile> tiles) {
  Member& m = members_[size_t(member)];
  const int64_t dim = tiles[0].kv->head_dim, state_size = cpu::attention_state_floats(dim);
  const int64_t num_rows = int64_t(tiles.size() - 1) * kMaxAttentionRows + tiles.back().num_rows;
  auto* scratch = m.kernel.get<std::byte>(kernels_.attention_scratch_bytes());
  float* states = m.states.get<float>((num_rows + kMaxAttentionRows) * state_size);
  float* next = states + num_rows * state_size;
  const int64_t num_splits = ceil_div(tiles.back().num_keys[tiles.back().num_rows - 1], kSplitKeys);
  for (int64_t p = 0; p < num_splits; ++p) {
    float* into = states;
    for (const AttentionTile& tile : tiles) {
      kernels_.attend(p == 0 ? into : next, tile, p, scratch);
      for (int64_t i = 0; i < tile.num_rows && p > 0; ++i)
        kernels_.merge_state(into + i * state_size, next + i * state_size, dim);
      into += tile.num_rows * state_size;
    }
  }
  return states;
}

void CpuOps::run_attention_unit(const AttentionCall& call, int member, const AttentionUnit& unit) {
  Member& m = members_[size_t(member)];
  const int64_t num_rows = unit.num_tokens * call.group;
  m.tiles.clear();
  for (int64_t row = 0; row < num_rows; row += kMaxAttentionRows)
    m.tiles.push_back(call.tile(unit, row, std::min<int64_t>(kMaxAttentionRows, num_rows - row)));
  if (unit.split >= 0) {
    auto* scratch = m.kernel.get<std::byte>(kernels_.attention_scratch_bytes());
    float* states = attention_states_.get<float>(0) + unit.state_row * call.state_size;
    for (const AttentionTile& tile : m.tiles) {
      kernels_.attend(states, tile, unit.split, scratch);
      states += tile.num_rows * call.state_size;
    }
    return;
  }
  const float* states = attend_all(member, m.tiles);
  for (int64_t i = 0; i < num_rows; ++i)
    call.finish(
        kernels_,
        call.out_head(unit.seq, unit.token + i / call.group, unit.kv_head * call.group + i % call.group),
        states + i * call.state_size);
}

void CpuOps::do_paged_attention(Tensor out, Tensor q, const KvLayer& kv, const AttentionBatch& batch,
                                float scale) {
  const int64_t dim = kv.head_dim;
  const AttentionCall call{
      out, q, kv, batch, scale, q.size(1) / dim / kv.num_kv_heads, cpu::attention_state_floats(dim)};
  plan_attention(call);
  reserve_attention(std::max(kUnitRows, call.group), dim);
  int64_t multiplications = 0;
  for (int seq = 0; seq < batch.num_seqs; ++seq) {
    const int64_t queries = call.num_queries(seq);
    multiplications += 2 * queries * call.num_keys(seq, queries - 1) * q.size(1);
  }
  const int64_t num_units = int64_t(attention_units_.size());
  if (multiplications <= kAlone)
    for (int64_t i = 0; i < num_units; ++i) run_attention_unit(call, 0, attention_units_[size_t(i)]);
  else
    team_.share(num_units, [&](int member, int64_t i) {
      run_attention_unit(call, member, attention_units_[size_t(i)]);
    });
  team_.share(int64_t(merges_.size()) * call.group, [&](int, int64_t i) {
    const AttentionUnit& unit = merges_[size_t(i / call.group)];
    const int64_t head = i % call.group, num_splits = unit.split;
    float* states = attention_states_.get<float>(0) + (unit.state_row + head) * call.state_size;
    for (int64_t p = 1; p < num_splits; ++p)
      kernels_.merge_state(states, states + p * call.group * call.state_size, dim);
    call.finish(kernels_, call.out_head(unit.seq, 0, unit.kv_head * call.group + head), states);
  });
}

}  // namespace llama4rt
