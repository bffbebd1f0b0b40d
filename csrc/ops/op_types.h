// The structures ops share: paged KV storage of one layer, what attention computes in one step, and routing.
// Letters: T tokens in the step, S sequences, Hq/Hkv heads, D head dim, P tokens per block, E experts, K
// experts per token.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "base/tensor.h"
#include "ops/kv_formats.h"

namespace llama4rt {

// What a linear op does with its sums y[n] of one row.
enum class Finish : uint8_t {
  kStore,   // out[n] = y[n]
  kAdd,     // out[n] += y[n]
  kSwiGlu,  // out[f] = silu(c * y[gate f]) * (c * y[up f]), c the row's score; rows interleaved as in
            // layout.h
};

// The paged cache of one layer. Inside a block each device chooses its own order of elements: only its
// prepare_qkv and paged_attention look. A block holds P tokens; k and v are each num_blocks * block_bytes().
struct KvLayer {
  void* k = nullptr;
  void* v = nullptr;
  KvKind format = KvKind::kBF16;
  int32_t num_blocks = 0;
  int block_size = 0;  // P, a multiple of 16
  int num_kv_heads = 0;
  int head_dim = 0;

  int64_t block_elements() const { return int64_t(num_kv_heads) * block_size * head_dim; }
  int64_t block_bytes() const { return int64_t(num_kv_heads) * block_size * kv_head_bytes(format, head_dim); }
};

// The attention of one layer group in one step. Each sequence contributes a run of consecutive
// query tokens; query token at absolute position p attends to keys kv_begin..p. For a chunked layer kv_begin
// is the start of p's chunk (a run never crosses a chunk boundary), for a global layer it is 0. kv_begin is a
// multiple of P. All arrays are host memory on CPUs, device memory on CUDA.
struct AttentionBatch {
  int num_seqs = 0;                         // S
  const int32_t* query_start = nullptr;     // [S + 1] first token row of each sequence; query_start[S] = T
  const int64_t* first_position = nullptr;  // [S] absolute position of the first query token
  const int64_t* kv_begin = nullptr;        // [S]
  const int32_t* block_table = nullptr;     // [S, max_blocks]; entry j holds positions kv_begin + j*P ..
  int max_blocks = 0;
  int max_query_len = 0;  // longest run, for choosing a schedule
};

// The router's decision for T tokens. A *pick* is t * K + i, the i-th expert of token t.
struct Routing {
  Tensor expert_ids;    // I32 [T, K], best logit first; ties go to the lowest expert
  Tensor scores;        // F32 [T, K], sigmoid of the selected logits
  Tensor sorted_picks;  // I32 [T * K], picks ordered by expert, then by pick
  Tensor offsets;       // I32 [E + 1], expert e owns sorted_picks[offsets[e] .. offsets[e + 1])
};

}  // namespace llama4rt
