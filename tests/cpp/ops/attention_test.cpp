// prepare_qkv and paged_attention. The cache's inner order is each device's own, so it is written and read
// only through the two ops, and starts full of NaN: a key outside a query's range must not matter even so.
#include "ops/conformance.h"
#include "ops/kv_int16.h"
#include "ops/kv_int4.h"
#include "ops/kv_int8.h"
#include "ops/kv_rotation.h"

namespace llama4rt::test {
namespace {

class Cache {
 public:
  Cache(Device& device, int num_blocks, int block_size, int num_kv_heads, int head_dim, KvKind format)
      : layer_{.format = format,
               .num_blocks = num_blocks,
               .block_size = block_size,
               .num_kv_heads = num_kv_heads,
               .head_dim = head_dim},
        k_(int64_t(num_blocks) * layer_.block_bytes()),
        v_(int64_t(k_.size())) {
    LLAMA4RT_CHECK(kInternal, device.traits().has_own_memory == false,
                   "the tests write device memory directly");
    std::memset(k_.as<char>(), 0xff, k_.size());
    std::memset(v_.as<char>(), 0xff, v_.size());
    layer_.k = k_.as<void>();
    layer_.v = v_.as<void>();
  }
  const KvLayer& layer() const { return layer_; }

 private:
  KvLayer layer_;
  AlignedBytes k_, v_;
};

Tensor slots_of(std::vector<int64_t>& slots) {
  return Tensor(slots.data(), DType::kI64, {int64_t(slots.size())});
}

// The keys and values of one sequence from kv_begin to its last query, and the blocks they live in.
struct StoredSequence {
  cases::AttentionSequence shape;
  std::vector<int32_t> blocks = {};
  Matrix k, v;  // [keys, Hkv * D]
};

struct AttentionInputs {
  std::vector<StoredSequence> sequences = {};
  int num_blocks = 0;
  Matrix q;  // [T, Hq * D]
};

AttentionInputs random_inputs(Rng& rng, const cases::AttentionCase& c) {
  AttentionInputs in{.q = random_activations(rng, c.num_tokens(), c.num_kv_heads * c.group * c.head_dim)};
  for (const cases::AttentionSequence& s : c.sequences) {
    const int64_t keys = s.first_position + s.length - s.kv_begin, width = c.num_kv_heads * c.head_dim;
    StoredSequence stored{
        .shape = s, .k = random_activations(rng, keys, width), .v = random_activations(rng, keys, width)};
    for (int64_t j = 0; j < ceil_div(keys, int64_t(c.block_size)); ++j)
      stored.blocks.push_back(in.num_blocks++);
    in.sequences.push_back(std::move(stored));
  }
  // Blocks of different sequences lie mixed in the cache.
  std::vector<int32_t> shuffled(static_cast<size_t>(in.num_blocks));
  std::iota(shuffled.begin(), shuffled.end(), 0);
  for (size_t i = shuffled.size(); i > 1; --i)
    std::swap(shuffled[i - 1], shuffled[size_t(rng.below(int64_t(i)))]);
  for (StoredSequence& s : in.sequences)
    for (int32_t& block : s.blocks) block = shuffled[size_t(block)];
  return in;
}

void fill(Device& device, const Cache& cache, const AttentionInputs& in, int group) {
  for (const StoredSequence& s : in.sequences) {
    Matrix k = s.k, v = s.v, q(s.k.rows(), s.k.columns() * group);
    for (int64_t i = 0; i < q.rows(); ++i) std::fill_n(q.row(i), q.columns(), 0.0f);
    std::vector<int64_t> slots;
    for (int64_t j = 0; j < s.k.rows(); ++j)
      slots.push_back(int64_t(s.blocks[size_t(j / cache.layer().block_size)]) * cache.layer().block_size +
                      j % cache.layer().block_size);
    device.ops().prepare_qkv(q.view(), k.view(), v.view(), {}, cache.layer(), slots_of(slots));
  }
}

// Attention of query rows [first, first + count), which may cut sequences anywhere.
Matrix attend(Device& device, const Cache& cache, const AttentionInputs& in, int64_t first, int64_t count,
              float scale) {
  std::vector<int32_t> query_start = {0}, table;
  std::vector<int64_t> first_position, kv_begin;
  AttentionBatch batch;
  for (const StoredSequence& s : in.sequences)
    batch.max_blocks = std::max(batch.max_blocks, int(s.blocks.size()));
  int64_t row = 0;
  for (const StoredSequence& s : in.sequences) {
    const int64_t begin = std::max(first, row), end = std::min(first + count, row + s.shape.length);
    if (begin < end) {
      first_position.push_back(s.shape.first_position + begin - row);
      kv_begin.push_back(s.shape.kv_begin);
      query_start.push_back(int32_t(end - first));
      table.insert(table.end(), s.blocks.begin(), s.blocks.end());
      table.resize(kv_begin.size() * size_t(batch.max_blocks), -1);
      batch.max_query_len = std::max(batch.max_query_len, int(end - begin));
    }
    row += s.shape.length;
  }
  batch.num_seqs = int(kv_begin.size());
  batch.query_start = query_start.data();
  batch.first_position = first_position.data();
  batch.kv_begin = kv_begin.data();
  batch.block_table = table.data();
  Matrix q = in.q.part(first, count), out(count, in.q.columns());
  device.ops().paged_attention(out.view(), q.view(), cache.layer(), batch, scale);
  return out;
}

bool holds_integers(KvKind format) { return kv_format(format).scale_bytes > 0; }

// A head as devices see it in front of the integers of a cache.
std::vector<float> rotated(const float* head, int64_t dim, KvKind format) {
  std::vector<float> x(head, head + dim);
  if (kv_format(format).rotated) rotate_head(x.data(), dim);
  return x;
}

// One head's key or value as a cache keeps it, and its scale (integers only).
struct Kept {
  std::vector<float> x;  // [D]
  double scale = 1;
  std::vector<float> stored;  // as integers times the scale: rotated, in front of some formats

  Kept(const float* head, int64_t dim, KvKind format) : x(head, head + dim) {
    if (format == KvKind::kInt8) {
      std::vector<int8_t> q(x.size());
      float s = 0;
      quantize_kv(q.data(), s, head, dim);
      std::transform(q.begin(), q.end(), x.begin(), [s](int8_t i) { return float(i) * s; });
      scale = double(s);
    }
    if (format == KvKind::kInt16) {
      std::vector<int16_t> q(x.size());
      float s = 0;
      quantize_kv_int16(q.data(), s, head, dim);
      std::transform(q.begin(), q.end(), x.begin(), [s](int16_t i) { return float(i) * s; });
      scale = double(s);
    }
    if (format == KvKind::kInt4) {
      const std::vector<float> r = rotated(head, dim, format);
      std::vector<uint8_t> codes(x.size());
      float s = 0;
      quantize_kv_int4(codes.data(), s, r.data(), dim);
      std::transform(codes.begin(), codes.end(), x.begin(), [s](int c) { return float(2 * c - 15) * s; });
      scale = double(s);
    }
    stored = x;
    if (kv_format(format).rotated) rotate_head(x.data(), dim);
    for (float& value : x) {
      if (format == KvKind::kF8E4M3) value = to_float(to_f8e4m3(value));
      if (format == KvKind::kBF16) value = to_float(to_bf16(value));
    }
  }
};

// The shared cases, and some of them with other caches.
std::vector<cases::AttentionCase> all_cases() {
  std::vector<cases::AttentionCase> all = cases::attention_cases();
  for (size_t i = 0; i < cases::attention_cases().size(); ++i) {
    all.push_back(all[i]);
    all.back().kv_format = i % 3 == 0 ? KvKind::kF8E4M3 : i % 3 == 1 ? KvKind::kInt16 : KvKind::kInt8;
    if (all[i].head_dim % 32 != 0 || i % 2 == 0) continue;
    all.push_back(all[i]);
    all.back().kv_format = KvKind::kInt4;
  }
  for (const int head_dim : {32, 96, 160, 256})  // rotated in blocks of 32, and as large as heads may be
    all.push_back(
        {.num_kv_heads = 2,
         .group = 3,
         .head_dim = head_dim,
         .block_size = 32,
         .kv_format = KvKind::kInt4,
         .sequences = {{.first_position = 70, .length = 3},
                       {.first_position = head_dim == 32 ? 1100 : 200, .length = 1}}});  // two splits once
  return all;
}

// Half of what numbers that are never larger than `largest`, and whose magnitudes sum to `sum`, are divided by to
// become the integers of a query, or of weights.
double half_step(KvKind format, double largest, double sum) {
  if (format != KvKind::kInt16) return largest / 32767 / 2;
  return std::max(largest / 32767, sum / double(kKvInt16MostSum)) / 2;
}

// What integer weights of keys, 64 together, may change of a weighted sum: half a step each, for the values of
// dimension d as they are stored.
double weight_rounding_stored(KvKind format, const std::vector<double>& weight,
                              const std::vector<Kept>& values, size_t d) {
  double bound = 0;
  for (size_t begin = 0; begin < values.size(); begin += 64) {
    double largest = 0, sum = 0, size = 0;
    for (size_t j = begin; j < std::min(begin + 64, values.size()); ++j) {
      if (values[j].scale == 0) continue;
      largest = std::max(largest, weight[j] * values[j].scale);
      sum += weight[j] * values[j].scale;
      size += std::abs(double(values[j].stored[d])) / values[j].scale;
    }
    bound += half_step(format, largest, sum) * size;
  }
  return bound;
}
// The same of every dimension; one of a rotated head is made of all dimensions of its block.
std::vector<double> weight_rounding(KvKind format, const std::vector<double>& weight,
                                    const std::vector<Kept>& values) {
  const size_t dim = values[0].x.size();
  std::vector<double> bound(dim);
  if (!holds_integers(format)) return bound;
  for (size_t d = 0; d < dim; ++d) bound[d] = weight_rounding_stored(format, weight, values, d);
  if (!kv_format(format).rotated) return bound;
  const size_t block = dim & -dim;
  for (size_t first = 0; first < dim; first += block) {
    double sum = 0;
    for (size_t d = first; d < first + block; ++d) sum += bound[d];
    std::fill_n(bound.begin() + int64_t(first), block, sum / std::sqrt(double(block)));
  }
  return bound;
}

Oracle attention_oracle(const cases::AttentionCase& c, const AttentionInputs& in, float scale) {
  const int64_t dim = c.head_dim;
  Oracle oracle(in.q.rows(), in.q.columns());
  int64_t row = 0;
  for (const StoredSequence& s : in.sequences)
    for (int64_t i = 0; i < s.shape.length; ++i, ++row)
      for (int64_t head = 0; head < c.num_kv_heads * c.group; ++head) {
        const int64_t kv = head / c.group * dim, keys = s.shape.first_position + i - s.shape.kv_begin + 1;
        const float* q = in.q.row(row) + head * dim;
        const std::vector<float> stored_q = rotated(q, dim, c.kv_format);
        std::vector<double> score;
        std::vector<Kept> values;
        double largest = -1e300, size = 0, q_square = 0, q_largest = 0, q_sum = 0, largest_v = 0,
               score_rounding = 0;
        for (int64_t d = 0; d < dim; ++d) {
          q_square += double(q[d]) * double(q[d]);
          q_largest = std::max(q_largest, std::abs(double(stored_q[size_t(d)])));
          q_sum += std::abs(double(stored_q[size_t(d)]));
        }
        for (int64_t j = 0; j < keys; ++j) {
          const Kept key(s.k.row(j) + kv, dim, c.kv_format);
          values.emplace_back(s.v.row(j) + kv, dim, c.kv_format);
          double dot = 0, k_square = 0, k_sum = 0;
          for (int64_t d = 0; d < dim; ++d) {
            const double k = double(key.x[size_t(d)]);
            dot += double(q[d]) * k;
            k_square += k * k;
            k_sum += std::abs(double(key.stored[size_t(d)]));
            largest_v = std::max(largest_v, std::abs(double(s.v.row(j)[kv + d])));
          }
          score.push_back(double(scale) * dot);
          largest = std::max(largest, score.back());
          size = std::max(size, double(scale) * std::sqrt(q_square * k_square));
          score_rounding =
              std::max(score_rounding, double(scale) * k_sum * half_step(c.kv_format, q_largest, q_sum));
        }
        double sum = 0;
        for (double& p : score) sum += p = std::exp(p - largest);
        for (double& p : score) p /= sum;
        const std::vector<double> of_weights = weight_rounding(c.kv_format, score, values);
        for (int64_t d = 0; d < dim; ++d) {
          double o = 0, absolute = 0;
          for (size_t j = 0; j < values.size(); ++j) {
            o += score[j] * double(values[j].x[size_t(d)]);
            absolute += score[j] * std::abs(double(values[j].x[size_t(d)]));
          }
          // An error of a score is a relative error of its probability, and of the others'.
          const double rounding = holds_integers(c.kv_format)
                                      ? std::expm1(2 * score_rounding) * absolute + of_weights[size_t(d)]
                                      : 0;
          oracle.set(row, head * dim + d, o, (1.0 + size) * largest_v, rounding);
        }
      }
  return oracle;
}

}  // namespace

TEST(attention_conforms) {
  SEEDED(rng);
  for (const cases::AttentionCase& c : all_cases()) {
    SCOPE(c.num_kv_heads, " x ", c.group, " heads of ", c.head_dim, ", blocks of ", c.block_size, ", ",
          kv_kind_name(c.kv_format), ", ", c.sequences.size(), " sequences, first at ",
          c.sequences[0].first_position);
    const AttentionInputs in = random_inputs(rng, c);
    const float scale = 1.0f / std::sqrt(float(c.head_dim));
    conform(attention_oracle(c, in, scale), fp32_tolerance(c.head_dim), in.q.rows(),
            [&](Device& device, int64_t first, int64_t count) {
              const Cache cache(device, in.num_blocks, c.block_size, c.num_kv_heads, c.head_dim, c.kv_format);
              fill(device, cache, in, c.group);
              return attend(device, cache, in, first, count, scale);
            });
  }
}

TEST(any_split_of_a_prompt_gives_the_same_bits) {
  SEEDED(rng);
  for (const KvKind format : {KvKind::kBF16, KvKind::kInt8, KvKind::kInt16, KvKind::kInt4})
    for (const Subject& s : subjects()) {
      SCOPE(s.label, ", ", kv_kind_name(format));
      const cases::AttentionCase c{.num_kv_heads = 2,
                                   .group = 5,
                                   .head_dim = 64,
                                   .block_size = 16,
                                   .kv_format = format,
                                   .sequences = {{.first_position = 0, .length = 150}}};
      const AttentionInputs in = random_inputs(rng, c);
      const Cache cache(*s.device, in.num_blocks, c.block_size, c.num_kv_heads, c.head_dim, c.kv_format);
      fill(*s.device, cache, in, c.group);
      const Matrix whole = attend(*s.device, cache, in, 0, 150, 0.125f);
      for (int64_t slice : {1, 7, 16, 64, 149})
        for (int64_t first = 0; first < 150; first += slice) {
          const int64_t count = std::min<int64_t>(slice, 150 - first);
          CHECK(attend(*s.device, cache, in, first, count, 0.125f) == whole.part(first, count));
        }
    }
}

// A key or value that is no number makes the rows that see it so, in every dimension it reaches, and no other
// row.
TEST(a_bad_key_or_value_reaches_those_who_see_it_only) {
  SEEDED(rng);
  constexpr int64_t kTokens = 90, kBad = 41;
  for (const KvKind format : {KvKind::kF32, KvKind::kBF16, KvKind::kInt8, KvKind::kInt16, KvKind::kInt4})
    for (const bool in_key : {true, false})
      for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
        // An infinite float key may only mean "never this one": a score of minus infinity.
        if (in_key && !holds_integers(format) && std::isinf(bad)) continue;
        const cases::AttentionCase c{.num_kv_heads = 1,
                                     .group = 3,
                                     .head_dim = 64,
                                     .block_size = 16,
                                     .kv_format = format,
                                     .sequences = {{.first_position = 0, .length = kTokens}}};
        const AttentionInputs good = random_inputs(rng, c);
        AttentionInputs spoilt = good;
        (in_key ? spoilt.sequences[0].k : spoilt.sequences[0].v).row(kBad)[5] = bad;
        for (const Subject& s : subjects()) {
          SCOPE(s.label, ", ", kv_kind_name(format), in_key ? ", key " : ", value ", bad);
          const auto run = [&](const AttentionInputs& in) {
            const Cache cache(*s.device, in.num_blocks, c.block_size, c.num_kv_heads, c.head_dim, format);
            fill(*s.device, cache, in, c.group);
            return attend(*s.device, cache, in, 0, kTokens, 0.125f);
          };
          const Matrix out = run(spoilt);
          CHECK(out.part(0, kBad) == run(good).part(0, kBad));
          for (int64_t i = kBad; i < kTokens; ++i) CHECK(!std::isfinite(out.row(i)[5]));
        }
      }
}

TEST(huge_scores_do_not_overflow) {
  SEEDED(rng);
  const cases::AttentionCase c{.num_kv_heads = 1,
                               .group = 2,
                               .head_dim = 64,
                               .block_size = 16,
                               .kv_format = KvKind::kF32,
                               .sequences = {{.first_position = 60, .length = 3}}};
  const AttentionInputs in = random_inputs(rng, c);
  for (const Subject& s : subjects()) {
    SCOPE(s.label);
    const Cache cache(*s.device, in.num_blocks, c.block_size, c.num_kv_heads, c.head_dim, c.kv_format);
    fill(*s.device, cache, in, c.group);
    const Matrix out = attend(*s.device, cache, in, 0, 3, 1e4f);
    for (int64_t i = 0; i < out.rows(); ++i)
      for (int64_t j = 0; j < out.columns(); ++j) CHECK(std::isfinite(out.row(i)[j]));
  }
}

// The largest sums of integers there can be: queries, keys and values whose numbers are all alike, and many keys of one
// weight. Half of the keys point away and have no weight; their values are others. Of formats that rotate heads, numbers
// are alike after it.
TEST(sums_of_integers_never_overflow) {
  constexpr int64_t kTokens = 130;
  for (const KvKind format : {KvKind::kInt8, KvKind::kInt16, KvKind::kInt4})
    for (const int head_dim : {kv_format(format).rotated ? 32 : 16, 128, 256}) {
      const cases::AttentionCase c{.num_kv_heads = 1,
                                   .group = 1,
                                   .head_dim = head_dim,
                                   .block_size = 16,
                                   .kv_format = format,
                                   .sequences = {{.first_position = 0, .length = kTokens}}};
      Rng rng(1);
      AttentionInputs in = random_inputs(rng, c);
      for (int64_t i = 0; i < kTokens; ++i)
        for (int64_t d = 0; d < head_dim; ++d) {
          in.q.row(i)[d] = 3;
          in.sequences[0].k.row(i)[d] = i % 2 ? -1.0f : 1.0f;
          in.sequences[0].v.row(i)[d] = i % 2 ? 5.0f : -2.0f;
          if (kv_format(format).rotated && d > 0)
            in.q.row(i)[d] = in.sequences[0].k.row(i)[d] = in.sequences[0].v.row(i)[d] = 0;
        }
      if (kv_format(format).rotated)
        for (int64_t i = 0; i < kTokens; ++i) in.q.row(i)[0] = float(3 * head_dim);
      const Kept want(in.sequences[0].v.row(0), head_dim, format);
      for (const Subject& s : subjects()) {
        SCOPE(s.label, ", ", kv_kind_name(format), ", ", head_dim);
        const Cache cache(*s.device, in.num_blocks, c.block_size, 1, head_dim, format);
        fill(*s.device, cache, in, 1);
        const Matrix out = attend(*s.device, cache, in, 0, kTokens, 1.0f);
        for (int64_t i = 0; i < kTokens; ++i)
          for (int64_t d = 0; d < head_dim; ++d) CHECK_CLOSE(out.row(i)[d], want.x[size_t(d)], 1e-3f);
      }
    }
}

TEST(prepare_qkv_conforms) {
  SEEDED(rng);
  for (const cases::QkvCase& c : cases::qkv_cases()) {
    SCOPE("T ", c.tokens, ", ", c.num_kv_heads, " x ", c.group, " heads of ", c.head_dim,
          c.rope ? ", rope" : "", c.qk_norm ? ", norm" : "", c.q_scale ? ", scale" : "", ", ",
          kv_kind_name(c.kv_format));
    const int64_t dim = c.head_dim, q_width = c.num_kv_heads * c.group * dim, kv_width = c.num_kv_heads * dim;
    const int64_t width = q_width + 2 * kv_width;
    const Matrix qkv = random_activations(rng, c.tokens, width);  // as one fused product leaves it
    std::vector<float> rope, temperature;
    for (int64_t t = 0; t < c.tokens; ++t) {
      temperature.push_back(rng.uniform(1.0f, 2.0f));
      for (int64_t i = 0; i < dim / 2; ++i) {
        const double angle = rng.uniform(-4.0f, 4.0f);
        rope.insert(rope.end(), {float(std::cos(angle)), float(std::sin(angle))});
      }
    }
    const float eps = 1e-5f;

    Oracle oracle(c.tokens, width);
    for (int64_t t = 0; t < c.tokens; ++t)
      for (int64_t head = 0; head < width / dim; ++head) {
        std::vector<double> x(qkv.row(t) + head * dim, qkv.row(t) + (head + 1) * dim), size(x);
        const bool is_q = head < q_width / dim, is_v = head >= (q_width + kv_width) / dim;
        for (int64_t i = 0; i < dim && c.rope && !is_v; i += 2) {
          const double re = x[size_t(i)], im = x[size_t(i + 1)];
          const double cosine = rope[size_t(t * dim + i)], sine = rope[size_t(t * dim + i + 1)];
          x[size_t(i)] = re * cosine - im * sine;
          x[size_t(i + 1)] = re * sine + im * cosine;
          size[size_t(i)] = size[size_t(i + 1)] = std::hypot(re, im);
        }
        double square = 0, factor = 1;
        for (double value : x) square += value * value;
        if (c.qk_norm && !is_v) factor = 1.0 / std::sqrt(square / double(dim) + double(eps));
        if (c.q_scale && is_q) factor *= double(temperature[size_t(t)]);
        for (int64_t i = 0; i < dim; ++i)
          oracle.set(t, head * dim + i, x[size_t(i)] * factor, std::abs(size[size_t(i)]) * factor);
      }
    conform(oracle, fp32_tolerance(dim), c.tokens, [&](Device& device, int64_t first, int64_t count) {
      Matrix out = qkv.part(first, count);
      const Cache cache(device, int(ceil_div(count, int64_t(16))), 16, c.num_kv_heads, c.head_dim,
                        c.kv_format);
      QkvTransform transform;
      transform.qk_norm = c.qk_norm;
      transform.qk_norm_eps = eps;
      if (c.rope) transform.rope = Tensor(rope.data() + first * dim, DType::kF32, {count, dim / 2, 2});
      if (c.q_scale) transform.q_scale = Tensor(temperature.data() + first, DType::kF32, {count});
      std::vector<int64_t> slots(static_cast<size_t>(count));
      std::iota(slots.begin(), slots.end(), int64_t(0));
      const Tensor all = out.view();
      device.ops().prepare_qkv(all.columns(0, q_width), all.columns(q_width, kv_width),
                               all.columns(q_width + kv_width, kv_width), transform, cache.layer(),
                               slots_of(slots));
      return out;
    });
  }
}

// What attention later reads is the transformed k and the plain v, rounded once.
TEST(the_cache_holds_the_transformed_keys) {
  SEEDED(rng);
  const int64_t tokens = 21, dim = 64, heads = 2;
  for (KvKind format :
       {KvKind::kF32, KvKind::kBF16, KvKind::kF8E4M3, KvKind::kInt8, KvKind::kInt16, KvKind::kInt4}) {
    const Matrix q = random_activations(rng, tokens, heads * dim),
                 k = random_activations(rng, tokens, heads * dim),
                 v = random_activations(rng, tokens, heads * dim);
    std::vector<float> rope;
    for (int64_t i = 0; i < tokens * dim / 2; ++i) {
      const double angle = rng.uniform(-4.0f, 4.0f);
      rope.insert(rope.end(), {float(std::cos(angle)), float(std::sin(angle))});
    }
    std::vector<int64_t> slots(static_cast<size_t>(tokens));
    std::iota(slots.begin(), slots.end(), int64_t(0));
    for (const Subject& s : subjects()) {
      SCOPE(s.label, ", ", kv_kind_name(format));
      Device& device = *s.device;
      // One device does everything at once; the other two steps apart: transform, then store as it is.
      const Cache at_once(device, 2, 16, int(heads), int(dim), format),
          apart(device, 2, 16, int(heads), int(dim), format);
      Matrix q1 = q, k1 = k, v1 = v;
      QkvTransform transform;
      transform.rope = Tensor(rope.data(), DType::kF32, {tokens, dim / 2, 2});
      transform.qk_norm = true;
      transform.qk_norm_eps = 1e-5f;
      device.ops().prepare_qkv(q1.view(), k1.view(), v1.view(), transform, at_once.layer(), slots_of(slots));
      Matrix q2 = q1, k2 = k1, v2 = v;
      device.ops().prepare_qkv(q2.view(), k2.view(), v2.view(), {}, apart.layer(), slots_of(slots));
      CHECK(q2 == q1);
      CHECK(k2 == k1);
      CHECK(v1 == v);
      AttentionInputs in{.num_blocks = 2, .q = q1};
      in.sequences.push_back({.shape = {.length = tokens}, .blocks = {0, 1}, .k = k1, .v = v});
      CHECK(attend(device, at_once, in, 0, tokens, 0.125f) == attend(device, apart, in, 0, tokens, 0.125f));
      // With one key, attention returns its value: exactly, so the sum of probabilities is exactly 1.
      const Matrix first = attend(device, at_once, in, 0, 1, 0.125f);
      for (int64_t head = 0; head < heads; ++head) {
        const Kept value(v.row(0) + head * dim, dim, format);
        for (int64_t i = 0; i < dim; ++i) {
          const float found = first.row(0)[head * dim + i], want = value.x[size_t(i)];
          if (holds_integers(format))  // its scale was divided by a number and multiplied again
            CHECK_CLOSE(
                found, want,
                1e-6f * std::abs(want) + (kv_format(format).rotated ? 16e-6f * float(value.scale) : 0));
          else
            CHECK_EQ(found, want);
        }
      }
    }
  }
}

}  // namespace llama4rt::test
