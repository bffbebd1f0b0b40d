// The public halves of all ops: shapes and dtypes are checked here, once for all devices, before the virtual
// half runs. A failed check is our own mistake (kInternal); what users may ask for is checked in the runtime.
#include "ops/ops.h"

#include <initializer_list>
#include <utility>

#include "ops/kv_formats.h"
#include "weights/layout.h"

namespace llama4rt {
namespace {

// --- one message for every mismatch: "linear: x is F32 [3, 64]; expected F32 [3, 128]"

std::string describe_shape(DType dtype, std::initializer_list<int64_t> dims) {
  Tensor wanted;
  wanted.dtype = dtype;
  for (int64_t d : dims) wanted.shape[size_t(wanted.rank++)] = d;
  return wanted.describe();
}

std::string describe_weight(const Weight& w) {
  return error_text(weight_kind_name(w.kind), " ", layout_name(w.layout), " [", w.num_experts, ", ", w.n,
                    ", ", w.k, "]", w.data ? "" : " without data");
}

void check_tensor(const char* op, const char* what, const Tensor& t, DType dtype,
                  std::initializer_list<int64_t> dims) {
  bool ok = t.dtype == dtype && t.rank == int(dims.size());
  int64_t numel = 1;
  for (int i = 0; ok && i < t.rank; ++i) {
    ok = t.shape[size_t(i)] == dims.begin()[i];
    numel *= t.shape[size_t(i)];
  }
  LLAMA4RT_CHECK(kInternal, ok, op, ": ", what, " is ", t.describe(), "; expected ",
                 describe_shape(dtype, dims));
  if (numel == 0) return;
  LLAMA4RT_CHECK(kInternal, t.data, op, ": ", what, " ", t.describe(), " has no data");
  LLAMA4RT_CHECK(kInternal, t.rank == 1 ? t.stride0 == 1 : t.stride0 >= t.row_size(), op, ": ", what, " ",
                 t.describe(), " has row stride ", t.stride0);
}

// Matrices have any number of rows and columns here; the caller then checks them against each other.
void check_rank(const char* op, const char* what, const Tensor& t, int rank) {
  LLAMA4RT_CHECK(kInternal, t.rank == rank, op, ": ", what, " is ", t.describe(), "; expected ", rank,
                 " dimensions");
}

void check_weight(const char* op, const char* what, const Weight& w, Layout layout, int64_t experts,
                  int64_t n, int64_t k) {
  LLAMA4RT_CHECK(kInternal, w.data && w.layout == layout && w.num_experts == experts && w.n == n && w.k == k,
                 op, ": ", what, " is ", describe_weight(w), "; expected ", layout_name(layout), " [",
                 experts, ", ", n, ", ", k, "]");
  LLAMA4RT_CHECK(kInternal, n > 0 && k > 0, op, ": ", what, " is ", describe_weight(w), ", which is empty");
  if (!w.quantized()) return;
  LLAMA4RT_CHECK(kInternal, w.layout != Layout::kRowMajor, op, ": ", what, " is ", describe_weight(w),
                 "; quantised weights are never row_major");
  const std::string refusal = weight_refusal(w);
  LLAMA4RT_CHECK(kInternal, refusal.empty(), op, ": ", what, ": ", refusal);
  LLAMA4RT_CHECK(kInternal, valid_group_size(w.group_size), op, ": ", what, " has group size ", w.group_size,
                 "; expected ", group_size_names());
  LLAMA4RT_CHECK(kInternal, w.scales && valid_scale_dtype(w.scale_dtype), op, ": ", what, " ",
                 describe_weight(w), " needs scales, found ", w.scales ? dtype_name(w.scale_dtype) : "none");
  const bool factors = has_factors(w.scale_dtype);
  LLAMA4RT_CHECK(kInternal,
                 (w.factors != nullptr) == factors && (w.offset_factors != nullptr) == (factors && w.offsets),
                 op, ": ", what, " ", describe_weight(w), " has ", dtype_name(w.scale_dtype),
                 " scales; factors are for those of 8 bits");
  LLAMA4RT_CHECK(kInternal, !factors || valid_factor_dtype(w.factor_dtype), op, ": ", what, " ",
                 describe_weight(w), " has factors of ", dtype_name(w.factor_dtype), "; expected F16 or F32");
  LLAMA4RT_CHECK(kInternal,
                 (!w.zeros || w.format().may_have_zeros) && (!w.offsets || w.format().may_have_offsets), op,
                 ": ", what, " ", describe_weight(w), " has zero points or offsets");
}

void check_separate(const char* op, const Tensor& out, const Tensor& in) {
  LLAMA4RT_CHECK(kInternal, !out.data || out.data != in.data, op, ": output and input are the same memory");
}

void check_linear(const char* op, const Tensor& out, const Tensor& x, const Weight& w, Layout layout) {
  check_rank(op, "x", x, 2);
  check_tensor(op, "x", x, DType::kF32, {x.size(0), w.k});
  check_tensor(op, "out", out, DType::kF32, {x.size(0), w.n});
  check_weight(op, "weight", w, layout, 1, w.n, w.k);
  check_separate(op, out, x);
}

void check_kv(const char* op, const KvLayer& kv, const DeviceTraits& device) {
  LLAMA4RT_CHECK(kInternal, kv.k && kv.v, op, ": the KV cache has no memory");
  LLAMA4RT_CHECK(kInternal, kv.block_size > 0 && kv.block_size % 16 == 0, op, ": KV block size is ",
                 kv.block_size, "; expected a multiple of 16");
  LLAMA4RT_CHECK(kInternal, kv.num_blocks > 0 && kv.num_kv_heads > 0, op, ": KV cache of ", kv.num_blocks,
                 " blocks and ", kv.num_kv_heads, " heads");
  LLAMA4RT_CHECK(kInternal, kv.head_dim > 0 && kv.head_dim % 2 == 0, op, ": head dim is ", kv.head_dim,
                 "; expected a positive even number");
  const std::string refusal = kv_refusal(kv.format, kv.head_dim, device.gpu_kv);
  LLAMA4RT_CHECK(kInternal, refusal.empty(), op, ": KV cache format ", refusal);
}

// q of [T, Hq * D]: any number of query heads that is a multiple of the KV heads.
void check_query_width(const char* op, const Tensor& q, const KvLayer& kv) {
  check_rank(op, "q", q, 2);
  const int64_t kv_width = int64_t(kv.num_kv_heads) * kv.head_dim;
  LLAMA4RT_CHECK(kInternal, q.size(1) > 0 && q.size(1) % kv_width == 0, op, ": q is ", q.describe(),
                 "; its width must be a multiple of ", kv.num_kv_heads, " KV heads of ", kv.head_dim);
}

// Every key of every query has a block in the table, and the table fits the cache.
void check_attention_batch(const char* op, const AttentionBatch& b, const KvLayer& kv, int64_t num_tokens) {
  LLAMA4RT_CHECK(kInternal, b.query_start[0] == 0 && b.query_start[b.num_seqs] == num_tokens, op,
                 ": query_start runs from ", b.query_start[0], " to ", b.query_start[b.num_seqs],
                 "; expected 0 to ", num_tokens);
  for (int s = 0; s < b.num_seqs; ++s) {
    const int64_t length = int64_t(b.query_start[s + 1]) - b.query_start[s];
    LLAMA4RT_CHECK(kInternal, length > 0 && length <= b.max_query_len, op, ": sequence ", s, " has ", length,
                   " query tokens; expected 1..", b.max_query_len, " (max_query_len)");
    LLAMA4RT_CHECK(
        kInternal,
        b.kv_begin[s] >= 0 && b.kv_begin[s] % kv.block_size == 0 && b.kv_begin[s] <= b.first_position[s], op,
        ": sequence ", s, " starts at position ", b.first_position[s], " with keys from ", b.kv_begin[s],
        "; keys must start on a block of ", kv.block_size, " at or before it");
    const int64_t blocks = ceil_div(b.first_position[s] + length - b.kv_begin[s], int64_t(kv.block_size));
    LLAMA4RT_CHECK(kInternal, blocks <= b.max_blocks, op, ": sequence ", s, " needs ", blocks,
                   " blocks but the block table has ", b.max_blocks, " columns");
#ifdef LLAMA4RT_ASSERTS  // as long as the context: too much for every layer of every step
    for (int64_t j = 0; j < blocks; ++j) {
      const int32_t block = b.block_table[int64_t(s) * b.max_blocks + j];
      LLAMA4RT_ASSERT(block >= 0 && block < kv.num_blocks);
    }
#endif
  }
}

// Returns the number of picks per token.
int64_t check_routing(const char* op, const Routing& r, int64_t num_tokens, int64_t num_experts) {
  check_rank(op, "routing.expert_ids", r.expert_ids, 2);
  const int64_t top_k = r.expert_ids.size(1);
  check_tensor(op, "routing.expert_ids", r.expert_ids, DType::kI32, {num_tokens, top_k});
  check_tensor(op, "routing.scores", r.scores, DType::kF32, {num_tokens, top_k});
  check_tensor(op, "routing.sorted_picks", r.sorted_picks, DType::kI32, {num_tokens * top_k});
  check_tensor(op, "routing.offsets", r.offsets, DType::kI32, {num_experts + 1});
  return top_k;
}

void check_gate_up(const char* op, const Tensor& a, const Tensor& h, const Weight& w, Layout layout) {
  check_rank(op, "h", h, 2);
  check_rank(op, "a", a, 2);
  check_tensor(op, "h", h, DType::kF32, {h.size(0), h.size(1)});
  check_tensor(op, "a", a, DType::kF32, {h.size(0), a.size(1)});
  check_weight(op, "gate_up", w, layout, 1, cpu16::gate_up_rows(a.size(1)), h.size(1));
  check_separate(op, a, h);
}

// The rows of an op with routed experts: one for each token, and `a` with one for each pick.
void check_experts_rows(const char* op, const char* name, const Tensor& of_tokens, const Tensor& a,
                        const Routing& routing, int64_t num_experts) {
  check_rank(op, name, of_tokens, 2);
  check_rank(op, "a", a, 2);
  const int64_t tokens = of_tokens.size(0), top_k = check_routing(op, routing, tokens, num_experts);
  check_tensor(op, name, of_tokens, DType::kF32, {tokens, of_tokens.size(1)});
  check_tensor(op, "a", a, DType::kF32, {tokens * top_k, a.size(1)});
  check_separate(op, a, of_tokens);
}

void check_experts_gate_up(const char* op, const Tensor& a, const Tensor& h, const Weight& w,
                           const Routing& routing, Layout layout) {
  check_experts_rows(op, "h", h, a, routing, w.num_experts);
  check_weight(op, "gate_up", w, layout, w.num_experts, cpu16::gate_up_rows(a.size(1)), h.size(1));
}

void check_experts_down_add(const char* op, const Tensor& x, const Tensor& a, const Weight& w,
                            const Routing& routing, Layout layout) {
  check_experts_rows(op, "x", x, a, routing, w.num_experts);
  check_weight(op, "down", w, layout, w.num_experts, x.size(1), a.size(1));
}

}  // namespace

void Ops::embed(Tensor out, const Weight& table, Tensor ids) {
  check_rank("embed", "ids", ids, 1);
  check_tensor("embed", "ids", ids, DType::kI32, {ids.size(0)});
  check_tensor("embed", "out", out, DType::kF32, {ids.size(0), table.k});
  check_weight("embed", "table", table, Layout::kRowMajor, 1, table.n, table.k);
  if (ids.size(0) > 0) do_embed(out, table, ids);
}

void Ops::scatter_rows(Tensor x, Tensor rows, Tensor src) {
  check_rank("scatter_rows", "x", x, 2);
  check_rank("scatter_rows", "rows", rows, 1);
  check_tensor("scatter_rows", "x", x, DType::kF32, {x.size(0), x.size(1)});
  check_tensor("scatter_rows", "rows", rows, DType::kI32, {rows.size(0)});
  check_tensor("scatter_rows", "src", src, DType::kF32, {rows.size(0), x.size(1)});
  check_separate("scatter_rows", x, src);
  if (rows.size(0) > 0) do_scatter_rows(x, rows, src);
}

void Ops::gather_rows(Tensor out, Tensor x, Tensor rows) {
  check_rank("gather_rows", "x", x, 2);
  check_rank("gather_rows", "rows", rows, 1);
  check_tensor("gather_rows", "x", x, DType::kF32, {x.size(0), x.size(1)});
  check_tensor("gather_rows", "rows", rows, DType::kI32, {rows.size(0)});
  check_tensor("gather_rows", "out", out, DType::kF32, {rows.size(0), x.size(1)});
  check_separate("gather_rows", out, x);
  if (rows.size(0) > 0) do_gather_rows(out, x, rows);
}

void Ops::rmsnorm(Tensor out, Tensor x, Tensor weight, float eps) {
  check_rank("rmsnorm", "x", x, 2);
  check_tensor("rmsnorm", "x", x, DType::kF32, {x.size(0), x.size(1)});
  check_tensor("rmsnorm", "out", out, DType::kF32, {x.size(0), x.size(1)});
  check_tensor("rmsnorm", "weight", weight, DType::kF32, {x.size(1)});
  if (x.numel() > 0) do_rmsnorm(out, x, weight, eps);
}

void Ops::layernorm(Tensor out, Tensor x, Tensor weight, Tensor bias, float eps) {
  check_rank("layernorm", "x", x, 2);
  check_tensor("layernorm", "x", x, DType::kF32, {x.size(0), x.size(1)});
  check_tensor("layernorm", "out", out, DType::kF32, {x.size(0), x.size(1)});
  check_tensor("layernorm", "weight", weight, DType::kF32, {x.size(1)});
  check_tensor("layernorm", "bias", bias, DType::kF32, {x.size(1)});
  if (x.numel() > 0) do_layernorm(out, x, weight, bias, eps);
}

void Ops::add_bias(Tensor x, Tensor bias) {
  check_rank("add_bias", "x", x, 2);
  check_tensor("add_bias", "x", x, DType::kF32, {x.size(0), x.size(1)});
  check_tensor("add_bias", "bias", bias, DType::kF32, {x.size(1)});
  if (x.numel() > 0) do_add_bias(x, bias);
}

void Ops::gelu(Tensor x, Tensor bias) {
  check_rank("gelu", "x", x, 2);
  check_tensor("gelu", "x", x, DType::kF32, {x.size(0), x.size(1)});
  if (bias) check_tensor("gelu", "bias", bias, DType::kF32, {x.size(1)});
  if (x.numel() > 0) do_gelu(x, bias);
}

void Ops::linear(Tensor out, Tensor x, const Weight& w) {
  check_linear("linear", out, x, w, matrix_layout());
  if (x.size(0) > 0) do_linear(out, x, w);
}

void Ops::linear_add(Tensor x, Tensor a, const Weight& w) {
  check_linear("linear_add", x, a, w, matrix_layout());
  if (a.size(0) > 0) do_linear_add(x, a, w);
}

void Ops::lora_add(Tensor out, Tensor x, std::span<const LoraRows> adapters) {
  constexpr const char* kOp = "lora_add";
  check_rank(kOp, "out", out, 2);
  check_rank(kOp, "x", x, 2);
  check_tensor(kOp, "out", out, DType::kF32, {x.size(0), out.size(1)});
  check_tensor(kOp, "x", x, DType::kF32, {x.size(0), x.size(1)});
  check_separate(kOp, out, x);
  for (const LoraRows& adapter : adapters) {
    const LoraFactors& factors = *adapter.factors;
    check_weight(kOp, "a", factors.a, matrix_layout(), 1, factors.a.n, x.size(1));
    check_rank(kOp, "rows", adapter.rows, 1);
    check_tensor(kOp, "rows", adapter.rows, DType::kI32, {adapter.rows.size(0)});
    for (const LoraFactors::Output& output : factors.outputs) {
      check_weight(kOp, "b", output.b, matrix_layout(), 1, output.b.n, output.b.k);
      LLAMA4RT_CHECK(kInternal,
                     !factors.a.quantized() && !output.b.quantized() && output.first_rank >= 0 &&
                         output.first_rank + output.b.k <= factors.a.n && output.first_column >= 0 &&
                         output.first_column + output.b.n <= out.size(1),
                     kOp, ": ranks ", output.first_rank, " to ", output.first_rank + output.b.k,
                     " and columns ", output.first_column, " to ", output.first_column + output.b.n, " of ",
                     factors.a.n, " and ", out.size(1), "; expected bf16 factors within them");
    }
  }
  if (!adapters.empty() && x.size(0) > 0) do_lora_add(out, x, adapters);
}

void Ops::do_lora_add(Tensor, Tensor, std::span<const LoraRows>) {
  throw Error(ErrorKind::kInternal, "lora_add: this device has no kernels for adapters");
}

void Ops::gate_up(Tensor a, Tensor h, const Weight& gate_up) {
  check_gate_up("gate_up", a, h, gate_up, matrix_layout());
  if (h.size(0) > 0) do_gate_up(a, h, gate_up);
}

void Ops::prepare_qkv(Tensor q, Tensor k, Tensor v, const QkvTransform& transform, const KvLayer& kv,
                      Tensor slot_mapping) {
  const char* op = "prepare_qkv";
  check_kv(op, kv, traits_);
  check_query_width(op, q, kv);
  const int64_t num_tokens = q.size(0);
  const int64_t kv_width = int64_t(kv.num_kv_heads) * kv.head_dim;
  check_tensor(op, "q", q, DType::kF32, {num_tokens, q.size(1)});
  check_tensor(op, "k", k, DType::kF32, {num_tokens, kv_width});
  check_tensor(op, "v", v, DType::kF32, {num_tokens, kv_width});
  check_tensor(op, "slot_mapping", slot_mapping, DType::kI64, {num_tokens});
  if (num_tokens == 0) return;
  if (transform.rope) {
    check_tensor(op, "rope", transform.rope, DType::kF32, {num_tokens, kv.head_dim / 2, 2});
    LLAMA4RT_CHECK(kInternal, transform.rope.contiguous(), op, ": rope must be contiguous");
  }
  if (transform.q_scale) check_tensor(op, "q_scale", transform.q_scale, DType::kF32, {num_tokens});
  if (host_memory()) {
    const int64_t num_slots = int64_t(kv.num_blocks) * kv.block_size;
    for (int64_t t = 0; t < num_tokens; ++t) {
      const int64_t slot = slot_mapping.ptr<int64_t>()[t];
      LLAMA4RT_CHECK(kInternal, slot >= 0 && slot < num_slots, op, ": token ", t, " goes to slot ", slot,
                     "; the cache has ", num_slots);
    }
  }
  do_prepare_qkv(q, k, v, transform, kv, slot_mapping);
}

void Ops::paged_attention(Tensor out, Tensor q, const KvLayer& kv, const AttentionBatch& batch, float scale) {
  const char* op = "paged_attention";
  check_kv(op, kv, traits_);
  check_query_width(op, q, kv);
  check_tensor(op, "q", q, DType::kF32, {q.size(0), q.size(1)});
  check_tensor(op, "out", out, DType::kF32, {q.size(0), q.size(1)});
  check_separate(op, out, q);
  if (q.size(0) == 0) return;
  LLAMA4RT_CHECK(
      kInternal,
      batch.num_seqs > 0 && batch.query_start && batch.first_position && batch.kv_begin && batch.block_table,
      op, ": the batch of ", batch.num_seqs, " sequences lacks an array");
  if (host_memory()) check_attention_batch(op, batch, kv, q.size(0));
  do_paged_attention(out, q, kv, batch, scale);
}

void Ops::rotate_heads(Tensor x, Tensor rope) {
  const char* op = "rotate_heads";
  check_rank(op, "x", x, 2);
  check_rank(op, "rope", rope, 3);
  check_tensor(op, "x", x, DType::kF32, {x.size(0), x.size(1)});
  check_tensor(op, "rope", rope, DType::kF32, {rope.size(0), rope.size(1), 2});
  LLAMA4RT_CHECK(kInternal, rope.numel() > 0 && rope.contiguous(), op, ": rope ", rope.describe(),
                 " must be contiguous and not empty");
  LLAMA4RT_CHECK(kInternal, x.size(0) % rope.size(0) == 0 && x.size(1) % (2 * rope.size(1)) == 0, op,
                 ": x is ", x.describe(), "; expected whole tiles of ", rope.size(0), " rows and heads of ",
                 2 * rope.size(1));
  if (x.numel() > 0) do_rotate_heads(x, rope);
}

void Ops::tile_attention(Tensor out, Tensor q, Tensor k, Tensor v, int64_t rows_per_tile, int num_heads,
                         float scale) {
  const char* op = "tile_attention";
  check_rank(op, "q", q, 2);
  for (const auto& [what, t] : {std::pair{"q", &q}, {"k", &k}, {"v", &v}, {"out", &out}})
    check_tensor(op, what, *t, DType::kF32, {q.size(0), q.size(1)});
  for (const Tensor* in : {&q, &k, &v}) check_separate(op, out, *in);
  LLAMA4RT_CHECK(kInternal, rows_per_tile > 0 && q.size(0) % rows_per_tile == 0, op, ": q is ", q.describe(),
                 "; expected whole tiles of ", rows_per_tile, " rows");
  LLAMA4RT_CHECK(kInternal, num_heads > 0 && q.size(1) % (2 * num_heads) == 0, op, ": q is ", q.describe(),
                 "; expected ", num_heads, " heads of an even size");
  if (q.numel() > 0) do_tile_attention(out, q, k, v, rows_per_tile, num_heads, scale);
}

Routing Ops::route(Tensor h, const Weight& router, int top_k, Workspace& ws) {
  check_rank("route", "h", h, 2);
  check_tensor("route", "h", h, DType::kF32, {h.size(0), router.k});
  check_weight("route", "router", router, matrix_layout(), 1, router.n, router.k);
  LLAMA4RT_CHECK(kInternal, router.kind == WeightKind::kBF16, "route: router is ", describe_weight(router),
                 "; expected bf16");
  LLAMA4RT_CHECK(kInternal, top_k >= 1 && top_k <= router.n, "route: top_k is ", top_k, "; expected 1..",
                 router.n);
  const int64_t num_tokens = h.size(0);
  Routing routing;
  routing.expert_ids = ws.take(DType::kI32, num_tokens, top_k);
  routing.scores = ws.take(DType::kF32, num_tokens, top_k);
  routing.sorted_picks = ws.take_vector(DType::kI32, num_tokens * top_k);
  routing.offsets = ws.take_vector(DType::kI32, router.n + 1);
  const auto scratch = ws.frame();
  do_route(routing, ws.take(num_tokens, router.n), h, router);
  return routing;
}

void Ops::experts_gate_up(Tensor a, Tensor h, const Weight& gate_up, const Routing& routing) {
  check_experts_gate_up("experts_gate_up", a, h, gate_up, routing, matrix_layout());
  if (h.size(0) > 0) do_experts_gate_up(a, h, gate_up, routing);
}

void Ops::experts_down_add(Tensor x, Tensor a, const Weight& down, const Routing& routing) {
  check_experts_down_add("experts_down_add", x, a, down, routing, matrix_layout());
  if (x.size(0) > 0) do_experts_down_add(x, a, down, routing);
}

void Ops::moe_gate_up(Tensor a, Tensor shared_a, Tensor h, const Weight& experts, const Weight& shared,
                      const Routing& routing) {
  const char* op = "moe_gate_up";
  check_experts_gate_up(op, a, h, experts, routing, matrix_layout());
  check_gate_up(op, shared_a, h, shared, matrix_layout());
  if (h.size(0) > 0) do_moe_gate_up(a, shared_a, h, experts, shared, routing);
}
void Ops::do_moe_gate_up(Tensor a, Tensor shared_a, Tensor h, const Weight& experts, const Weight& shared,
                         const Routing& routing) {
  do_gate_up(shared_a, h, shared);
  do_experts_gate_up(a, h, experts, routing);
}

void Ops::moe_down_add(Tensor x, Tensor a, Tensor shared_a, const Weight& experts, const Weight& shared,
                       const Routing& routing) {
  const char* op = "moe_down_add";
  check_experts_down_add(op, x, a, experts, routing, matrix_layout());
  check_linear(op, x, shared_a, shared, matrix_layout());
  if (x.size(0) > 0) do_moe_down_add(x, a, shared_a, experts, shared, routing);
}
void Ops::do_moe_down_add(Tensor x, Tensor a, Tensor shared_a, const Weight& experts, const Weight& shared,
                          const Routing& routing) {
  do_linear_add(x, shared_a, shared);
  do_experts_down_add(x, a, experts, routing);
}

void Ops::sample(const SampleBatch& batch, Tensor logits) {
  const char* op = "sample";
  check_rank(op, "logits", logits, 2);
  check_tensor(op, "logits", logits, DType::kF32, {batch.num_rows, logits.size(1)});
  LLAMA4RT_CHECK(kInternal, logits.size(1) > 0 && logits.size(1) <= kMaxSampledVocabulary, op,
                 ": logits are ", logits.describe(), "; expected 1..", kMaxSampledVocabulary, " tokens");
  if (batch.num_rows == 0) return;
  LLAMA4RT_CHECK(kInternal, batch.rows && batch.sampled && (batch.all_plain || batch.top), op,
                 ": the batch of ", batch.num_rows, " rows lacks an array");
  do_sample(batch, logits);
}

void Ops::do_sample(const SampleBatch&, Tensor) {
  throw Error(ErrorKind::kInternal, "sample: this device has no kernel for it; rows are sampled on the host");
}

void Ops::all_gather(Tensor x) {
  check_rank("all_gather", "x", x, 2);
  check_tensor("all_gather", "x", x, DType::kF32, {x.size(0), x.size(1)});
  if (x.numel() > 0) do_all_gather(x);
}

}  // namespace llama4rt
