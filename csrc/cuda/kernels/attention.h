// Launchers of prepare_qkv and attention over the paged cache. Sizes of a launch come from the host alone
// (sequences, columns of the block table, longest run), so that it can be recorded in a graph.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/checked_math.h"
#include "base/tensor.h"
#include "cuda/kernels/attention_splits.h"
#include "cuda/runtime.h"
#include "ops/op_types.h"
#include "ops/ops.h"

namespace llama4rt::cuda {

// Whether blocks of this cache are in cores (kv_layout.cuh), so that tensor cores can take them; the
// others are for attention_plain.
inline bool kv_in_cores(const KvLayer& kv) {
  return (kv.format == KvKind::kBF16 || kv.format == KvKind::kF8E4M3) && kv.head_dim % 16 == 0 &&
         kv.head_dim <= 128 && kv.block_size % 16 == 0;
}

struct PrepareQkv {
  // Any cache dtype and any even head dim up to 256.
  static bool supports(const KvLayer& kv);
  // As Ops::prepare_qkv; arrays are device memory.
  static void run(Stream& stream, Tensor q, Tensor k, Tensor v, const QkvTransform& transform,
                  const KvLayer& kv, Tensor slot_mapping);
};

// Ops::paged_attention's arguments, for every attention launcher. All pointers are device memory.
struct AttentionCall {
  Tensor out;  // [T, Hq * D]
  Tensor q;    // [T, Hq * D]
  KvLayer kv;
  AttentionBatch batch;
  float scale;

  int group() const { return int(q.size(1) / kv.head_dim / kv.num_kv_heads); }
  // Rows of the longest run: one per query token and query head of the group.
  int64_t max_rows() const { return int64_t(batch.max_query_len) * group(); }
  // More keys than any sequence has.
  int64_t max_keys() const { return int64_t(batch.max_blocks) * kv.block_size; }
};

// What the kernels with mma rely on: sequences fit a grid's y and z, and keys are counted in int by granules
// and rows.
inline bool mma_can_take(const AttentionCall& call) {
  return kv_in_cores(call.kv) && call.scale > 0 && call.batch.num_seqs <= 65535 &&
         call.kv.num_kv_heads <= 65535 && call.max_rows() < int64_t(1) << 30;
}

// A warp per query head and token in plain fp32: any cache dtype, any head dim up to 256. For caches
// that the others do not support.
struct AttentionPlain {
  static bool supports(const AttentionCall& call);
  static void run(Stream& stream, const AttentionCall& call);
};

// Few rows, many keys (decode): the keys are cut into splits whose partial results are merged. For caches in
// cores.
struct AttentionDecode {
  // Rows beyond 32 would read the keys three times and more.
  static constexpr int64_t kMaxRows = 2 * kWarpRows;
  // Partial results are small beside the keys, but there may be many sequences.
  static constexpr size_t kMaxScratch = size_t(1) << 30;

  static bool supports(const AttentionCall& call) {
    return mma_can_take(call) && call.max_rows() <= kMaxRows && scratch_bytes(call) <= kMaxScratch;
  }
  // Scratch for the partial results. The tickets must be zero before the first run; each run leaves them
  // zero.
  static size_t scratch_bytes(const AttentionCall& call) { return scratch_bytes(call, call.max_rows()); }
  static size_t ticket_bytes(const AttentionCall& call) { return ticket_bytes(call, call.max_rows()); }
  // The most of any call of so many sequences, keys and rows, or fewer.
  static size_t most_scratch_bytes(const AttentionCall& call) {
    return std::min(scratch_bytes(call, std::min(call.max_rows(), kMaxRows)), kMaxScratch);
  }
  static size_t most_ticket_bytes(const AttentionCall& call) {
    return ticket_bytes(call, std::min(call.max_rows(), kMaxRows));
  }

  // Of a call whose longest run has `rows` rows.
  static int64_t row_tiles(int64_t rows) { return ceil_div(rows, int64_t(kWarpRows)); }
  static int state_rows(int64_t rows) { return int(std::min<int64_t>(rows, kWarpRows)); }
  static size_t ticket_bytes(const AttentionCall& call, int64_t rows) {
    return size_t(call.batch.num_seqs * row_tiles(rows) * call.kv.num_kv_heads) * sizeof(uint32_t);
  }
  static size_t scratch_bytes(const AttentionCall& call, int64_t rows) {
    return ticket_bytes(call, rows) / sizeof(uint32_t) * size_t(Splits::count(call.max_keys())) *
           size_t(state_rows(rows) * (call.kv.head_dim + 2)) * sizeof(float);
  }
  static void run(Stream& stream, const AttentionCall& call, void* scratch, uint32_t* tickets);
};

// Many rows (prefill), or many sequences: a block computes 64 rows over all of their keys. The same bits as
// AttentionDecode. For caches in cores.
struct AttentionPrefill {
  static bool supports(const AttentionCall& call);
  static void run(Stream& stream, const AttentionCall& call);
};

// The same with wgmma and bulk copies: compute capability 9.x, bf16 caches, heads of 64 or 128 dims.
struct AttentionHopper {
  static bool supports(const AttentionCall& call, int compute_major);
  static void run(Stream& stream, const AttentionCall& call);
};

}  // namespace llama4rt::cuda
