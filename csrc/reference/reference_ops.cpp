#include "reference/reference_ops.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numbers>
#include <vector>

#include "base/checked_math.h"
#include "ops/kv_int16.h"
#include "ops/kv_int4.h"
#include "ops/kv_int8.h"
#include "ops/kv_rotation.h"
#include "weights/layout.h"

namespace llama4rt {
namespace {

// Row n of one matrix as fp32, exactly weight_value(w, n, k) for all k. The kind is a template argument so
// that "which word, which bits" costs shifts and not divisions: the vocabulary matrix passes through here.
template <WeightKind kKind>
void dequantise_words(float* row, const Weight& w, int64_t n) {
  constexpr int64_t kValues = cpu16::values_per_word(kKind);
  for (int64_t k0 = 0; k0 < w.k; k0 += kValues) {
    uint32_t word = 0;
    std::memcpy(&word, static_cast<const char*>(w.data) + cpu16::word_offset(kKind, n, k0, w.k), 4);
    for (int64_t j = 0; j < std::min(kValues, w.k - k0); ++j) {
      const uint32_t bits = (word >> cpu16::bit_offset(kKind, j)) & code_mask(kKind);
      row[k0 + j] = code_value(kKind, bits, 0, w.table);
    }
  }
}

void dequantise_row(float* row, const Weight& w, int64_t n) {
  if (w.layout != Layout::kCpu16) {  // ops that derive from this one may have another
    for (int64_t k = 0; k < w.k; ++k) row[k] = weight_value(w, n, k);
    return;
  }
  with_weight_kind(w.kind, [&]<WeightKind kind>() { dequantise_words<kind>(row, w, n); });
  for (int64_t group = 0; group < w.num_groups(); ++group) {
    const float scale = group_scale(w, n, group), zero = float(group_zero(w, n, group));
    const int64_t begin = group * w.group_size, end = std::min(w.k, begin + w.group_size);
    for (int64_t k = begin; k < end; ++k) row[k] = (row[k] - zero) * scale;
    if (!w.offsets) continue;
    const float offset = group_offset(w, n, group);
    for (int64_t k = begin; k < end; ++k) row[k] += offset;
  }
}

float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }
float silu(float x) { return x * sigmoid(x); }

// store(t, n, sum_k x[t, k] w[n, k]) for all t and n; each weight row is dequantised once.
template <class Store>
void multiply(const Tensor& x, const Weight& w, Store store) {
  std::vector<float> row(size_t(w.k));
  for (int64_t n = 0; n < w.n; ++n) {
    dequantise_row(row.data(), w, n);
    for (int64_t t = 0; t < x.size(0); ++t) store(t, n, dot(x.row<const float>(t), row.data(), w.k));
  }
}

// a[f] = silu(c * g) * (c * u), g = h . gate[f], u = h . up[f], for each of the given rows (h, a, c).
struct GateUpRow {
  const float* h;  // [H]
  float* a;        // [F]
  float score;     // c: 1 outside of experts
};
void multiply_gate_up(const std::vector<GateUpRow>& rows, const Weight& gate_up, int64_t num_f) {
  std::vector<float> gate(size_t(gate_up.k)), up(size_t(gate_up.k));
  for (int64_t f = 0; f < num_f; ++f) {
    dequantise_row(gate.data(), gate_up, cpu16::gate_row(f));
    dequantise_row(up.data(), gate_up, cpu16::up_row(f));
    for (const GateUpRow& r : rows) {
      const float g = dot(r.h, gate.data(), gate_up.k), u = dot(r.h, up.data(), gate_up.k);
      r.a[f] = silu(r.score * g) * (r.score * u);
    }
  }
}

// Rotates adjacent pairs: (x[2i], x[2i+1]) times (cos + i sin).   head: [D]; angles: [D/2, 2].
void rotate(float* head, const float* angles, int64_t head_dim) {
  for (int64_t i = 0; i < head_dim; i += 2) {
    const float re = head[i], im = head[i + 1], c = angles[i], s = angles[i + 1];
    head[i] = re * c - im * s;
    head[i + 1] = re * s + im * c;
  }
}

void normalise(float* head, int64_t head_dim, float eps) {
  const float scale = 1.0f / std::sqrt(dot(head, head, head_dim) / float(head_dim) + eps);
  for (int64_t i = 0; i < head_dim; ++i) head[i] *= scale;
}

void transform_heads(const Tensor& x, const QkvTransform& transform, int64_t head_dim) {
  for (int64_t t = 0; t < x.size(0); ++t)
    for (int64_t i = 0; i < x.size(1); i += head_dim) {
      float* head = x.row<float>(t) + i;
      if (transform.rope) rotate(head, transform.rope.row<const float>(t), head_dim);
      if (transform.qk_norm) normalise(head, head_dim, transform.qk_norm_eps);
    }
}

// Where the bytes of one token and KV head lie; the order inside a block is [Hkv][P]. Int8 has D bytes and
// then the scale.
int64_t kv_offset(const KvLayer& kv, int64_t block, int64_t head, int64_t offset) {
  return ((block * kv.num_kv_heads + head) * kv.block_size + offset) * kv_head_bytes(kv.format, kv.head_dim);
}

void convert(float& out, float x) { out = x; }
void convert(bf16& out, float x) { out = to_bf16(x); }
void convert(f8e4m3& out, float x) { out = to_f8e4m3(x); }

template <class Element>
void store_floats(void* p, const float* head, int64_t head_dim) {
  for (int64_t i = 0; i < head_dim; ++i) convert(static_cast<Element*>(p)[i], head[i]);
}
template <class Element>
void load_floats(float* head, const void* p, int64_t head_dim) {
  for (int64_t i = 0; i < head_dim; ++i) head[i] = to_float(static_cast<const Element*>(p)[i]);
}

// head: [D] of one token; `at`: its bytes in the cache.
void store_kv(void* cache, KvKind kind, int64_t at, const float* head, int64_t head_dim) {
  void* const p = static_cast<char*>(cache) + at;
  switch (kind) {
    case KvKind::kBF16:
      return store_floats<bf16>(p, head, head_dim);
    case KvKind::kF32:
      return store_floats<float>(p, head, head_dim);
    case KvKind::kF8E4M3:
      return store_floats<f8e4m3>(p, head, head_dim);
    case KvKind::kInt8: {
      float scale = 0;
      quantize_kv(static_cast<int8_t*>(p), scale, head, head_dim);
      std::memcpy(static_cast<char*>(p) + head_dim, &scale, sizeof(scale));
      return;
    }
    case KvKind::kInt16: {
      float scale = 0;
      quantize_kv_int16(static_cast<int16_t*>(p), scale, head, head_dim);
      std::memcpy(static_cast<char*>(p) + head_dim * 2, &scale, sizeof(scale));
      return;
    }
    case KvKind::kInt4: {
      float scale = 0;
      std::vector<float> rotated(head, head + head_dim);
      std::vector<uint8_t> codes(rotated.size());
      rotate_head(rotated.data(), head_dim);
      quantize_kv_int4(codes.data(), scale, rotated.data(), head_dim);
      auto* const bytes = static_cast<uint8_t*>(p);
      for (size_t i = 0; i < codes.size(); i += 2) bytes[i / 2] = uint8_t(codes[i] | codes[i + 1] << 4);
      std::memcpy(bytes + head_dim / 2, &scale, sizeof(scale));
      return;
    }
  }
}

void load_kv(float* head, const void* cache, KvKind kind, int64_t at, int64_t head_dim) {
  const void* const p = static_cast<const char*>(cache) + at;
  switch (kind) {
    case KvKind::kBF16:
      return load_floats<bf16>(head, p, head_dim);
    case KvKind::kF32:
      return load_floats<float>(head, p, head_dim);
    case KvKind::kF8E4M3:
      return load_floats<f8e4m3>(head, p, head_dim);
    case KvKind::kInt8: {
      float scale = 0;
      std::memcpy(&scale, static_cast<const char*>(p) + head_dim, sizeof(scale));
      for (int64_t i = 0; i < head_dim; ++i) head[i] = float(static_cast<const int8_t*>(p)[i]) * scale;
      return;
    }
    case KvKind::kInt16: {
      float scale = 0;
      std::memcpy(&scale, static_cast<const char*>(p) + head_dim * 2, sizeof(scale));
      for (int64_t i = 0; i < head_dim; ++i) head[i] = float(static_cast<const int16_t*>(p)[i]) * scale;
      return;
    }
    case KvKind::kInt4: {
      float scale = 0;
      const auto* const bytes = static_cast<const uint8_t*>(p);
      std::memcpy(&scale, bytes + head_dim / 2, sizeof(scale));
      for (int64_t i = 0; i < head_dim; ++i)
        head[i] = float(2 * (bytes[i / 2] >> i % 2 * 4 & 15) - kKvInt4Zero) * scale;
      return rotate_head(head, head_dim);
    }
  }
}

// out = sum_j softmax_j(scale * q . key(j)) value(j) over num_keys keys.   out, q, key(j), value(j): [D]
template <class Key, class Value>
void attend(float* out, const float* q, int64_t head_dim, int64_t num_keys, float scale,
            std::vector<float>& scores, const Key& key, const Value& value) {
  scores.resize(size_t(num_keys));
  for (int64_t j = 0; j < num_keys; ++j) scores[size_t(j)] = scale * dot(q, key(j), head_dim);
  const float maximum = *std::max_element(scores.begin(), scores.end());
  float sum = 0;
  for (float& p : scores) sum += p = std::exp(p - maximum);
  std::fill_n(out, head_dim, 0.0f);
  for (int64_t j = 0; j < num_keys; ++j) {
    const float* v = value(j);
    for (int64_t i = 0; i < head_dim; ++i) out[i] += scores[size_t(j)] * v[i];
  }
  for (int64_t i = 0; i < head_dim; ++i) out[i] /= sum;
}

}  // namespace

void ReferenceOps::do_embed(Tensor out, const Weight& table, Tensor ids) {
  for (int64_t t = 0; t < ids.size(0); ++t) {
    const int64_t id = ids.ptr<int32_t>()[t];
    LLAMA4RT_CHECK(kInternal, id >= 0 && id < table.n, "embed: token id ", id, " of row ", t,
                   " is outside the table of ", table.n);
    for (int64_t i = 0; i < table.k; ++i)
      out.row<float>(t)[i] = to_float(static_cast<const bf16*>(table.data)[id * table.k + i]);
  }
}

void ReferenceOps::do_scatter_rows(Tensor x, Tensor rows, Tensor src) {
  for (int64_t i = 0; i < rows.size(0); ++i)
    std::copy_n(src.row<const float>(i), x.size(1), x.row<float>(rows.ptr<int32_t>()[i]));
}

void ReferenceOps::do_gather_rows(Tensor out, Tensor x, Tensor rows) {
  for (int64_t i = 0; i < rows.size(0); ++i)
    std::copy_n(x.row<const float>(rows.ptr<int32_t>()[i]), x.size(1), out.row<float>(i));
}

void ReferenceOps::do_rmsnorm(Tensor out, Tensor x, Tensor weight, float eps) {
  const int64_t dim = x.size(1);
  for (int64_t t = 0; t < x.size(0); ++t) {
    const float* in = x.row<const float>(t);
    const float scale = 1.0f / std::sqrt(dot(in, in, dim) / float(dim) + eps);
    for (int64_t i = 0; i < dim; ++i) out.row<float>(t)[i] = in[i] * scale * weight.ptr<const float>()[i];
  }
}

void ReferenceOps::do_layernorm(Tensor out, Tensor x, Tensor weight, Tensor bias, float eps) {
  const int64_t dim = x.size(1);
  std::vector<float> deviation(static_cast<size_t>(dim));
  for (int64_t t = 0; t < x.size(0); ++t) {
    const float* in = x.row<const float>(t);
    float sum = 0;
    for (int64_t i = 0; i < dim; ++i) sum += in[i];
    const float mean = sum / float(dim);
    for (int64_t i = 0; i < dim; ++i) deviation[size_t(i)] = in[i] - mean;
    const float scale = 1.0f / std::sqrt(dot(deviation.data(), deviation.data(), dim) / float(dim) + eps);
    for (int64_t i = 0; i < dim; ++i)
      out.row<float>(t)[i] =
          deviation[size_t(i)] * scale * weight.ptr<const float>()[i] + bias.ptr<const float>()[i];
  }
}

void ReferenceOps::do_add_bias(Tensor x, Tensor bias) {
  for (int64_t t = 0; t < x.size(0); ++t)
    for (int64_t i = 0; i < x.size(1); ++i) x.row<float>(t)[i] += bias.ptr<const float>()[i];
}

void ReferenceOps::do_gelu(Tensor x, Tensor bias) {
  for (int64_t t = 0; t < x.size(0); ++t)
    for (int64_t i = 0; i < x.size(1); ++i) {
      const float y = x.row<float>(t)[i] + (bias ? bias.ptr<const float>()[i] : 0.0f);
      x.row<float>(t)[i] = 0.5f * y * (1.0f + std::erf(y * float(1 / std::numbers::sqrt2)));
    }
}

void ReferenceOps::do_linear(Tensor out, Tensor x, const Weight& w) {
  multiply(x, w, [&](int64_t t, int64_t n, float y) { out.row<float>(t)[n] = y; });
}

void ReferenceOps::do_linear_add(Tensor x, Tensor a, const Weight& w) {
  multiply(a, w, [&](int64_t t, int64_t n, float y) { x.row<float>(t)[n] += y; });
}

void ReferenceOps::do_lora_add(Tensor out, Tensor x, std::span<const LoraRows> adapters) {
  for (const LoraRows& adapter : adapters)
    for (const LoraFactors::Output& output : adapter.factors->outputs)
      for (int64_t i = 0; i < adapter.rows.size(0); ++i) {
        const int64_t t = adapter.rows.ptr<const int32_t>()[i];
        const Tensor to = out.rows(t, 1);
        std::vector<float> y(size_t(adapter.factors->a.n));
        multiply(x.rows(t, 1), adapter.factors->a,
                 [&](int64_t, int64_t r, float value) { y[size_t(r)] = output.scale * value; });
        const Tensor ranks(y.data() + output.first_rank, DType::kF32, {1, output.b.k});
        multiply(ranks, output.b, [&](int64_t, int64_t n, float value) {
          to.row<float>(0)[output.first_column + n] += value;
        });
      }
}

void ReferenceOps::do_gate_up(Tensor a, Tensor h, const Weight& gate_up) {
  std::vector<GateUpRow> rows;
  for (int64_t t = 0; t < h.size(0); ++t) rows.push_back({h.row<const float>(t), a.row<float>(t), 1.0f});
  multiply_gate_up(rows, gate_up, a.size(1));
}

void ReferenceOps::do_prepare_qkv(Tensor q, Tensor k, Tensor v, const QkvTransform& transform,
                                  const KvLayer& kv, Tensor slot_mapping) {
  transform_heads(q, transform, kv.head_dim);
  transform_heads(k, transform, kv.head_dim);
  for (int64_t t = 0; t < q.size(0); ++t) {
    if (transform.q_scale)
      for (int64_t i = 0; i < q.size(1); ++i) q.row<float>(t)[i] *= transform.q_scale.ptr<const float>()[t];
    const int64_t slot = slot_mapping.ptr<const int64_t>()[t];
    for (int64_t head = 0; head < kv.num_kv_heads; ++head) {
      const int64_t index = kv_offset(kv, slot / kv.block_size, head, slot % kv.block_size);
      store_kv(kv.k, kv.format, index, k.row<const float>(t) + head * kv.head_dim, kv.head_dim);
      store_kv(kv.v, kv.format, index, v.row<const float>(t) + head * kv.head_dim, kv.head_dim);
    }
  }
}

void ReferenceOps::do_paged_attention(Tensor out, Tensor q, const KvLayer& kv, const AttentionBatch& batch,
                                      float scale) {
  const int64_t dim = kv.head_dim, num_heads = q.size(1) / dim, heads_per_kv = num_heads / kv.num_kv_heads;
  std::vector<float> scores, key_or_value(static_cast<size_t>(dim));
  for (int64_t s = 0; s < batch.num_seqs; ++s) {
    for (int64_t t = batch.query_start[s]; t < batch.query_start[s + 1]; ++t) {
      const int64_t position = batch.first_position[s] + (t - batch.query_start[s]);
      const int64_t num_keys = position - batch.kv_begin[s] + 1;
      for (int64_t head = 0; head < num_heads; ++head) {
        const auto load = [&](const void* cache, int64_t j) {
          const int64_t block = batch.block_table[s * batch.max_blocks + j / kv.block_size];
          load_kv(key_or_value.data(), cache, kv.format,
                  kv_offset(kv, block, head / heads_per_kv, j % kv.block_size), dim);
          return key_or_value.data();
        };
        attend(
            out.row<float>(t) + head * dim, q.row<const float>(t) + head * dim, dim, num_keys, scale, scores,
            [&](int64_t j) { return load(kv.k, j); }, [&](int64_t j) { return load(kv.v, j); });
      }
    }
  }
}

void ReferenceOps::do_rotate_heads(Tensor x, Tensor rope) {
  const int64_t dim = 2 * rope.size(1);
  for (int64_t t = 0; t < x.size(0); ++t)
    for (int64_t i = 0; i < x.size(1); i += dim)
      rotate(x.row<float>(t) + i, rope.row<const float>(t % rope.size(0)), dim);
}

void ReferenceOps::do_tile_attention(Tensor out, Tensor q, Tensor k, Tensor v, int64_t rows_per_tile,
                                     int num_heads, float scale) {
  const int64_t dim = q.size(1) / num_heads;
  std::vector<float> scores;
  for (int64_t t = 0; t < q.size(0); ++t) {
    const int64_t tile = t / rows_per_tile * rows_per_tile;
    for (int64_t i = 0; i < q.size(1); i += dim)
      attend(
          out.row<float>(t) + i, q.row<const float>(t) + i, dim, rows_per_tile, scale, scores,
          [&](int64_t j) { return k.row<const float>(tile + j) + i; },
          [&](int64_t j) { return v.row<const float>(tile + j) + i; });
  }
}

void ReferenceOps::do_route(const Routing& routing, Tensor logits, Tensor h, const Weight& router) {
  const int64_t num_experts = router.n, top_k = routing.expert_ids.size(1), num_tokens = h.size(0);
  multiply(h, router, [&](int64_t t, int64_t e, float y) { logits.row<float>(t)[e] = y; });
  std::vector<bool> taken;
  for (int64_t t = 0; t < num_tokens; ++t) {
    const float* row = logits.row<const float>(t);
    taken.assign(size_t(num_experts), false);
    for (int64_t i = 0; i < top_k; ++i) {
      int32_t best = -1;  // among equal logits the lowest expert wins
      for (int32_t e = 0; e < num_experts; ++e)
        if (!taken[size_t(e)] && (best < 0 || row[e] > row[best])) best = e;
      taken[size_t(best)] = true;
      routing.expert_ids.row<int32_t>(t)[i] = best;
      routing.scores.row<float>(t)[i] = sigmoid(row[best]);
    }
  }
  const int32_t* experts = routing.expert_ids.ptr<const int32_t>();
  int32_t* offsets = routing.offsets.ptr<int32_t>();
  int32_t filled = 0;
  for (int32_t e = 0; e < num_experts; ++e) {
    offsets[e] = filled;
    for (int32_t pick = 0; pick < num_tokens * top_k; ++pick)
      if (experts[pick] == e) routing.sorted_picks.ptr<int32_t>()[filled++] = pick;
  }
  offsets[num_experts] = filled;
}

void ReferenceOps::do_experts_gate_up(Tensor a, Tensor h, const Weight& gate_up, const Routing& routing) {
  const int64_t top_k = routing.expert_ids.size(1);
  const int32_t* offsets = routing.offsets.ptr<const int32_t>();
  for (int64_t e = 0; e < gate_up.num_experts; ++e) {
    std::vector<GateUpRow> rows;
    for (int32_t i = offsets[e]; i < offsets[e + 1]; ++i) {
      const int64_t pick = routing.sorted_picks.ptr<const int32_t>()[i];
      rows.push_back(
          {h.row<const float>(pick / top_k), a.row<float>(pick), routing.scores.ptr<const float>()[pick]});
    }
    if (!rows.empty()) multiply_gate_up(rows, expert_view(gate_up, e), a.size(1));
  }
}

void ReferenceOps::do_experts_down_add(Tensor x, Tensor a, const Weight& down, const Routing& routing) {
  const int64_t top_k = routing.expert_ids.size(1), num_picks = x.size(0) * top_k;
  const int32_t* offsets = routing.offsets.ptr<const int32_t>();
  std::vector<float> y(size_t(num_picks * down.n)), row(size_t(down.k));  // y: [T * K, N]
  for (int64_t e = 0; e < down.num_experts; ++e) {
    if (offsets[e] == offsets[e + 1]) continue;
    const Weight one = expert_view(down, e);
    for (int64_t n = 0; n < down.n; ++n) {
      dequantise_row(row.data(), one, n);
      for (int32_t i = offsets[e]; i < offsets[e + 1]; ++i) {
        const int64_t pick = routing.sorted_picks.ptr<const int32_t>()[i];
        y[size_t(pick * down.n + n)] = dot(a.row<const float>(pick), row.data(), down.k);
      }
    }
  }
  for (int64_t t = 0; t < x.size(0); ++t)
    for (int64_t n = 0; n < down.n; ++n) {
      float sum = y[size_t(t * top_k * down.n + n)];
      for (int64_t i = 1; i < top_k; ++i) sum += y[size_t((t * top_k + i) * down.n + n)];
      x.row<float>(t)[n] += sum;
    }
}

ReferenceDevice::ReferenceDevice() : HostDevice(device_traits("reference")), ops_(traits()) {}

}  // namespace llama4rt
