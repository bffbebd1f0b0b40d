// CpuOps: ops that work row by row, and prepare_qkv.
#include <algorithm>

#include "cpu/cpu_ops.h"

namespace llama4rt {

void CpuOps::do_embed(Tensor out, const Weight& table, Tensor ids) {
  for (int64_t t = 0; t < ids.size(0); ++t) {
    const int64_t id = ids.ptr<const int32_t>()[t];
    LLAMA4RT_CHECK(kInternal, id >= 0 && id < table.n, "embed: token id ", id, " of row ", t,
                   " is outside the table of ", table.n);
  }
  for_rows(ids.size(0), table.k, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      kernels_.widen_row(out.row<float>(t),
                         static_cast<const bf16*>(table.data) + ids.ptr<const int32_t>()[t] * table.k,
                         table.k);
  });
}

void CpuOps::do_scatter_rows(Tensor x, Tensor rows, Tensor src) {
  for (int64_t i = 0; i < rows.size(0); ++i)
    std::copy_n(src.row<const float>(i), x.size(1), x.row<float>(rows.ptr<const int32_t>()[i]));
}

void CpuOps::do_gather_rows(Tensor out, Tensor x, Tensor rows) {
  for (int64_t i = 0; i < rows.size(0); ++i)
    std::copy_n(x.row<const float>(rows.ptr<const int32_t>()[i]), x.size(1), out.row<float>(i));
}

void CpuOps::do_rmsnorm(Tensor out, Tensor x, Tensor weight, float eps) {
  for_rows(x.size(0), x.size(1), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      kernels_.rmsnorm_row(out.row<float>(t), x.row<const float>(t), weight.ptr<const float>(), x.size(1),
                           eps);
  });
}

void CpuOps::do_layernorm(Tensor out, Tensor x, Tensor weight, Tensor bias, float eps) {
  for_rows(x.size(0), x.size(1), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      kernels_.layernorm_row(out.row<float>(t), x.row<const float>(t), weight.ptr<const float>(),
                             bias.ptr<const float>(), x.size(1), eps);
  });
}

void CpuOps::do_add_bias(Tensor x, Tensor bias) {
  for_rows(x.size(0), x.size(1), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      kernels_.add_rows(x.row<float>(t), bias.ptr<const float>(), 0, 1, x.size(1));
  });
}

void CpuOps::do_gelu(Tensor x, Tensor bias) {
  for_rows(x.size(0), x.size(1), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      kernels_.gelu_row(x.row<float>(t), bias.ptr<const float>(), x.size(1));
  });
}

// A unit is one KV head of one token together with its query heads.
void CpuOps::do_prepare_qkv(Tensor q, Tensor k, Tensor v, const QkvTransform& transform, const KvLayer& kv,
                            Tensor slot_mapping) {
  const int64_t dim = kv.head_dim, kv_heads = kv.num_kv_heads, group = q.size(1) / dim / kv_heads;
  const float eps = transform.qk_norm ? transform.qk_norm_eps : -1.0f;
  for_rows(q.size(0) * kv_heads, (group + 2) * dim, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t t = unit / kv_heads, kv_head = unit % kv_heads;
      const float* angles = transform.rope ? transform.rope.row<const float>(t) : nullptr;
      const float q_scale = transform.q_scale ? transform.q_scale.ptr<const float>()[t] : 1.0f;
      for (int64_t i = 0; i < group; ++i)
        kernels_.transform_head(q.row<float>(t) + (kv_head * group + i) * dim, angles, eps, q_scale, dim);
      float* key = k.row<float>(t) + kv_head * dim;
      kernels_.transform_head(key, angles, eps, 1.0f, dim);
      kernels_.store_kv(kv, slot_mapping.ptr<const int64_t>()[t], kv_head, key,
                        v.row<const float>(t) + kv_head * dim);
    }
  });
}

}  // namespace llama4rt
