// Launchers of prepare_qkv and attention over the paged cache. Sizes of a launch come from the host alone
// (sequences, columns of the block table, longest run), so that it can be recorded in a graph.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/tensor.h"
#include "cuda/runtime.h"
#include "ops/backend.h"
#include "ops/op_types.h"

namespace llama4rt::cuda {

// Whether blocks of this cache are in cores (kv_layout.cuh), so that tensor cores can take them; the
// others are for attention_plain.
bool kv_in_cores(const KvLayer& kv);

struct PrepareQkv {
  // Any cache dtype and any even head dim up to 256.
  static bool supports(const KvLayer& kv);
  // As Backend::prepare_qkv; arrays are device memory.
  static void run(Stream& stream, Tensor q, Tensor k, Tensor v, const QkvTransform& transform,
                  const KvLayer& kv, Tensor slot_mapping);
};

// Backend::paged_attention's arguments, for every attention launcher. All pointers are device memory.
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

// A warp per query head and token in plain fp32: any cache dtype, any head dim up to 256. For caches
// that the others do not support.
struct AttentionPlain {
  static bool supports(const AttentionCall& call);
  static void run(Stream& stream, const AttentionCall& call);
};

// Few rows, many keys (decode): the keys are cut into spans whose partial results are merged. For caches in
// cores.
struct AttentionDecode {
  static bool supports(const AttentionCall& call);
  // Scratch for the partial results. The tickets must be zero before the first run; each run leaves them
  // zero.
  static size_t scratch_bytes(const AttentionCall& call);
  static size_t ticket_bytes(const AttentionCall& call);
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
