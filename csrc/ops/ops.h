// Ops: what a device computes. The model is written over this class and never asks which device it is.
//
// Every public op checks shapes and dtypes once (ops.cpp) and calls its virtual half. The reference defines
// what an op means; CPU and CUDA are compared with it on tests/cpp/ops/cases.h.
//
// Conventions: activations are fp32 in memory; sums are fp32 in an order that depends only on
// the element computed (its inputs' absolute positions: weight groups, KV blocks), never on the batch, the
// tile, the number of threads or the instruction set. Outputs may not overlap inputs unless an op says so.
// Ops run in call order. Letters: T tokens, H hidden, N outputs, Hq/Hkv heads, D head dim, E experts, K
// experts per token, F expert width, V vocabulary, R rows of a picture tile.
#pragma once

#include <cstdint>
#include <span>

#include "base/tensor.h"
#include "ops/device.h"
#include "ops/lora.h"
#include "ops/op_types.h"
#include "ops/sampling.h"
#include "ops/workspace.h"
#include "weights/weight.h"

namespace llama4rt {

// The steps between the qkv linear and attention; see Ops::prepare_qkv.
struct QkvTransform {
  Tensor rope;  // F32 [T, D/2, 2] cos and sin of each pair's angle, or empty: no rotation (NoPE layer)
  bool qk_norm = false;  // unit RMS per head after rotation
  float qk_norm_eps = 0;
  Tensor q_scale;  // F32 [T] temperature of each token, or empty; q only
};

class Ops {
 public:
  // traits: of the device it computes on.
  explicit Ops(const DeviceTraits& traits) : traits_(traits) {}
  virtual ~Ops() = default;
  Ops(const Ops&) = delete;
  Ops& operator=(const Ops&) = delete;

  // --- element-wise and gathers
  // out[t, :] = table[ids[t], :].   out: F32 [T, H]; table: bf16 kRowMajor [V, H]; ids: I32 [T], each in
  // 0..V-1.
  void embed(Tensor out, const Weight& table, Tensor ids);
  // x[rows[i], :] = src[i, :].   x: F32 [T, H]; rows: I32 [R], distinct; src: F32 [R, H].
  void scatter_rows(Tensor x, Tensor rows, Tensor src);
  // out[i, :] = x[rows[i], :].   out: F32 [R, H]; x: F32 [T, H]; rows: I32 [R].
  void gather_rows(Tensor out, Tensor x, Tensor rows);
  // out[t, :] = x[t, :] * rsqrt(mean(x[t, :]^2) + eps) * weight.   out, x: F32 [T, H], may be the same;
  // weight: F32 [H].
  void rmsnorm(Tensor out, Tensor x, Tensor weight, float eps);
  // out[t, :] = (x[t, :] - mean(x[t, :])) / sqrt(var(x[t, :]) + eps) * weight + bias, var the mean of squared
  // deviations.   out, x: F32 [T, H], may be the same; weight, bias: F32 [H].
  void layernorm(Tensor out, Tensor x, Tensor weight, Tensor bias, float eps);
  // x[t, :] += bias.   x: F32 [T, H]; bias: F32 [H].
  void add_bias(Tensor x, Tensor bias);
  // x[t, :] = gelu(x[t, :] + bias), gelu(y) = y * (1 + erf(y / sqrt(2))) / 2, the exact form.   x: F32 [T,
  // H]; bias: F32 [H], or empty: none.
  void gelu(Tensor x, Tensor bias);

  // --- linear algebra; weights are in the layout of the device's traits, single matrices unless said
  // otherwise out[t, n] = sum_k x[t, k] w[n, k].   out: F32 [T, N]; x: F32 [T, K].
  void linear(Tensor out, Tensor x, const Weight& w);
  // x[t, n] += sum_k a[t, k] w[n, k].   x: F32 [T, N]; a: F32 [T, K].
  void linear_add(Tensor x, Tensor a, const Weight& w);
  // For every row t of every adapter, and every output of its factors, with y = x[t] a^T from its first rank on:
  // out[t, first_column + n] += sum_r (scale * y[r]) b[n, r]. Other rows are untouched. Each sum runs as in linear().
  // Only on devices that work on host memory.   out: F32 [T, N]; x: F32 [T, K].
  void lora_add(Tensor out, Tensor x, std::span<const LoraRows> adapters);
  // SwiGLU of a dense MLP or shared expert: a[t, f] = silu(g) * u, g = h . gate[f], u = h . up[f], silu(g) =
  // g / (1 + e^-g). a: F32 [T, F]; h: F32 [T, H]; gate_up: rows interleaved (layout.h), gate_up.n =
  // gate_up_rows(F), gate_up.k = H.
  void gate_up(Tensor a, Tensor h, const Weight& gate_up);

  // --- attention
  // Applies, in this order and only where asked: rotation of adjacent pairs of q and k, unit RMS per head of
  // q and k (v / rms(v), eps inside the root, no weight), q *= q_scale[t]; then stores k and v of token t at
  // slot_mapping[t]. q: F32 [T, Hq*D] in place; k: F32 [T, Hkv*D] in place; v: F32 [T, Hkv*D]; the three may
  // be columns of one buffer. slot_mapping: I64 [T]; slot = block * P + offset. Stored values round to
  // kv.format (nearest even).
  void prepare_qkv(Tensor q, Tensor k, Tensor v, const QkvTransform& transform, const KvLayer& kv,
                   Tensor slot_mapping);
  // out[t, h, :] = sum_j softmax_j(scale * q[t, h] . k[j, h / (Hq/Hkv)]) v[j, ...], j over the keys of
  // op_types.h. out: F32 [T, Hq*D]; q: F32 [T, Hq*D]. Softmax in fp32 (exact maximum subtracted).
  void paged_attention(Tensor out, Tensor q, const KvLayer& kv, const AttentionBatch& batch, float scale);

  // --- attention over pictures: tiles of R rows each, one after the other
  // Rotates adjacent pairs of every head: row t by the angles of row t mod R of `rope`.   x: F32 [tiles * R,
  // Hq*D] in place, q and k side by side; rope: F32 [R, D/2, 2] cos and sin.
  void rotate_heads(Tensor x, Tensor rope);
  // out[t, h, :] = sum_j softmax_j(scale * q[t, h] . k[j, h]) v[j, h], j over the rows of t's own tile,
  // before and after it. out, q, k, v: F32 [tiles * R, Hq*D]; q, k and v may be columns of one buffer.
  // Softmax in fp32 (exact maximum subtracted).
  void tile_attention(Tensor out, Tensor q, Tensor k, Tensor v, int64_t rows_per_tile, int num_heads,
                      float scale);

  // --- mixture of experts
  // logits = h . router (fp32), top_k per token, sigmoid, counting sort. Buffers of the Routing come from ws.
  // h: F32 [T, H]; router: [E, H] bf16.
  Routing route(Tensor h, const Weight& router, int top_k, Workspace& ws);
  // For every pick s = t * K + i with expert e:  a[s, f] = silu(c * g) * (c * u), c = scores[t, i], g = h[t]
  // . gate_e[f], ... a: F32 [T * K, F]; h: F32 [T, H]; gate_up: stack of E matrices as in gate_up(). Only
  // experts with tokens are read.
  void experts_gate_up(Tensor a, Tensor h, const Weight& gate_up, const Routing& routing);
  // x[t, n] += sum over i (in order i = 0..K-1, summed first) of a[t * K + i] . down_e[n].
  // x: F32 [T, H]; a: F32 [T * K, F]; down: stack of E matrices [H, F].
  void experts_down_add(Tensor x, Tensor a, const Weight& down, const Routing& routing);
  // The same with the shared expert beside the routed ones, as a layer needs them: a device may compute both in
  // one launch.  gate_up of `shared` into shared_a, and experts_gate_up.   a: F32 [T * K, F]; shared_a: F32 [T,
  // F']; h: F32 [T, H].
  void moe_gate_up(Tensor a, Tensor shared_a, Tensor h, const Weight& experts, const Weight& shared,
                   const Routing& routing);
  // linear_add of `shared`, then experts_down_add.   x: F32 [T, H]; a: F32 [T * K, F]; shared_a: F32 [T, F'].
  void moe_down_add(Tensor x, Tensor a, Tensor shared_a, const Weight& experts, const Weight& shared,
                    const Routing& routing);

  // --- sampling
  // Only on devices whose traits say `samples`; others leave it to runtime/sampling, on the host.
  // Chooses a token for every row of logits: edits (bias, then penalties as in runtime/sampling/sampler.cpp),
  // mask, then the largest logit, ties to the lowest id; or a draw: weights e^((logit - max) / temperature),
  // those below min_p are 0, rounded to the grid of sampling.h; the top_k best tokens, of those the fewest
  // best that hold top_p of their weight; of these the first whose cumulative weight, in order of id, exceeds
  // uniform * total. "Best" is the larger edited logit, then the lower id. logits: F32 [S, V], overwritten, V
  // at most 2^19.
  void sample(const SampleBatch& batch, Tensor logits);

  // --- several devices
  // Each of R devices has computed an equal share of the columns of x (or of the rows of every part of a
  // fused product); afterwards each has all of them. Nothing to do on one device.   x: F32 [T, N].
  void all_gather(Tensor x);

 protected:
  friend class ObservingOps;  // ops/observe.h: calls these of another device's ops, once checked

  virtual void do_embed(Tensor out, const Weight& table, Tensor ids) = 0;
  virtual void do_scatter_rows(Tensor x, Tensor rows, Tensor src) = 0;
  virtual void do_gather_rows(Tensor out, Tensor x, Tensor rows) = 0;
  virtual void do_rmsnorm(Tensor out, Tensor x, Tensor weight, float eps) = 0;
  virtual void do_layernorm(Tensor out, Tensor x, Tensor weight, Tensor bias, float eps) = 0;
  virtual void do_add_bias(Tensor x, Tensor bias) = 0;
  virtual void do_gelu(Tensor x, Tensor bias) = 0;
  virtual void do_linear(Tensor out, Tensor x, const Weight& w) = 0;
  virtual void do_linear_add(Tensor x, Tensor a, const Weight& w) = 0;
  virtual void do_lora_add(Tensor out, Tensor x, std::span<const LoraRows> adapters);  // throws: has none
  virtual void do_gate_up(Tensor a, Tensor h, const Weight& gate_up) = 0;
  virtual void do_prepare_qkv(Tensor q, Tensor k, Tensor v, const QkvTransform& transform, const KvLayer& kv,
                              Tensor slot_mapping) = 0;
  virtual void do_paged_attention(Tensor out, Tensor q, const KvLayer& kv, const AttentionBatch& batch,
                                  float scale) = 0;
  virtual void do_rotate_heads(Tensor x, Tensor rope) = 0;
  virtual void do_tile_attention(Tensor out, Tensor q, Tensor k, Tensor v, int64_t rows_per_tile,
                                 int num_heads, float scale) = 0;
  virtual void do_route(const Routing& routing, Tensor logits, Tensor h,
                        const Weight& router) = 0;  // logits: scratch [T, E]
  virtual void do_experts_gate_up(Tensor a, Tensor h, const Weight& gate_up, const Routing& routing) = 0;
  virtual void do_experts_down_add(Tensor x, Tensor a, const Weight& down, const Routing& routing) = 0;
  virtual void do_moe_gate_up(Tensor a, Tensor shared_a, Tensor h, const Weight& experts,
                              const Weight& shared, const Routing& routing);
  virtual void do_moe_down_add(Tensor x, Tensor a, Tensor shared_a, const Weight& experts,
                               const Weight& shared, const Routing& routing);
  virtual void do_sample(const SampleBatch& batch, Tensor logits);  // throws: where the host samples
  virtual void do_all_gather(Tensor /*x*/) {}

 private:
  Layout matrix_layout() const { return traits_.layout; }
  bool host_memory() const { return !traits_.has_own_memory; }

  const DeviceTraits traits_;
};

}  // namespace llama4rt
