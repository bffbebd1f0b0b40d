#include "bench_cases.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "ops/cases.h"
#include "ops/random_weights.h"

namespace llama4rt::bench {
namespace {

using test::AlignedBytes;
using test::Matrix;
using test::RandomGateUp;
using test::RandomWeight;
using test::Rng;

constexpr size_t kColdBytes = size_t(384) << 20;    // above the last-level cache of any machine we know
constexpr size_t kSharedBytes = size_t(192) << 20;  // of weights that take turns in the same memory

// One weight in as many copies as it takes to miss the caches, handed out in turn.
class ColdWeight {
 public:
  // cold_bytes: of all copies; 0: the caches may help
  ColdWeight(RandomWeight first, size_t cold_bytes) {
    const size_t copies = std::clamp<size_t>(cold_bytes / first.bytes(), 1, 64);
    for (size_t i = 1; i < copies; ++i) copies_.push_back(first.copy());
    copies_.push_back(std::move(first));
  }
  const Weight& next() { return copies_[turn_++ % copies_.size()].view(); }
  double bytes() const { return double(copies_.front().bytes()); }
  size_t copies() const { return copies_.size(); }

 private:
  std::vector<RandomWeight> copies_;
  size_t turn_ = 0;
};

std::string name_of(const cases::WeightSpec& spec) {
  if (spec.kind == WeightKind::kBF16) return "bf16";
  std::string scales;
  if (spec.scales != DType::kBF16) scales = error_text(" ", dtype_name(spec.scales));
  if (has_factors(spec.scales))
    scales += error_text(" x ", dtype_name(spec.factors), spec.row_factors ? " a row" : "");
  return error_text(weight_kind_name(spec.kind), " g", spec.group_size, scales,
                    spec.zeros ? " zero points" : "", spec.offsets ? " offsets" : "",
                    spec.table == cases::kWideTable   ? " wide"
                    : spec.table == cases::kE2M1Table ? " e2m1"
                                                      : "");
}

// The plain kind that a kind is to be nearly as fast as: of its width and groups; of fp8 it is bf16.
int64_t plain_place(const cases::WeightSpec& spec) {
  const int bits = weight_format(spec.kind).bits;
  for (int64_t i = 0; i < int64_t(std::size(cases::kWeightSpeed)); ++i) {
    const cases::WeightSpec& plain = cases::kWeightSpeed[i];
    if (spec.kind == WeightKind::kFp8 && plain.kind == WeightKind::kBF16) return i;
    const bool is_plain = plain.scales == DType::kBF16 && !plain.zeros && !plain.offsets &&
                          weight_format(plain.kind).meaning == CodeMeaning::kInteger;
    if (is_plain && weight_format(plain.kind).bits == bits && plain.group_size == spec.group_size) return i;
  }
  return -1;
}

std::shared_ptr<Matrix> activations(Rng& rng, int64_t rows, int64_t columns) {
  return std::make_shared<Matrix>(test::random_activations(rng, rows, columns));
}

std::vector<BenchCase> rmsnorm_cases(Device& device) {
  Rng rng(1);
  std::vector<BenchCase> all;
  for (const cases::RowsCase& c : cases::kRmsNormSpeed) {
    const auto x = activations(rng, c.tokens, c.dim), weight = activations(rng, 1, c.dim);
    const auto out = std::make_shared<Matrix>(c.tokens, c.dim);
    all.push_back({.op = "rmsnorm",
                   .shape = error_text("T ", c.tokens, ", H ", c.dim),
                   .bytes = 4.0 * double(2 * c.tokens * c.dim + c.dim),
                   .flops = 4.0 * double(c.tokens * c.dim),
                   .run = [&device, x, weight, out, dim = c.dim] {
                     device.ops().rmsnorm(out->view(), x->view(), Tensor(weight->row(0), DType::kF32, {dim}),
                                          1e-5f);
                   }});
  }
  return all;
}

std::vector<BenchCase> layernorm_cases(Device& device) {
  Rng rng(5);
  std::vector<BenchCase> all;
  for (const cases::RowsCase& c : cases::kLayerNormSpeed) {
    const auto x = activations(rng, c.tokens, c.dim), weight = activations(rng, 2, c.dim);
    const auto out = std::make_shared<Matrix>(c.tokens, c.dim);
    all.push_back({.op = "layernorm",
                   .shape = error_text("T ", c.tokens, ", H ", c.dim),
                   .bytes = 4.0 * double(2 * c.tokens * c.dim + 2 * c.dim),
                   .flops = 7.0 * double(c.tokens * c.dim),
                   .run = [&device, x, weight, out, dim = c.dim] {
                     device.ops().layernorm(out->view(), x->view(),
                                            Tensor(weight->row(0), DType::kF32, {dim}),
                                            Tensor(weight->row(1), DType::kF32, {dim}), 1e-5f);
                   }});
  }
  return all;
}

std::vector<BenchCase> gelu_cases(Device& device) {
  Rng rng(6);
  std::vector<BenchCase> all;
  for (const cases::RowsCase& c : cases::kGeluSpeed) {
    const auto x = activations(rng, c.tokens, c.dim), bias = activations(rng, 1, c.dim);
    all.push_back({.op = "gelu",
                   .shape = error_text("T ", c.tokens, ", H ", c.dim),
                   .bytes = 4.0 * double(2 * c.tokens * c.dim + c.dim),
                   .flops = 40.0 * double(c.tokens * c.dim),  // two polynomials and a division
                   .run = [&device, x, bias, dim = c.dim] {
                     device.ops().gelu(x->view(), Tensor(bias->row(0), DType::kF32, {dim}));
                   }});
  }
  return all;
}

// Memory in which weights of all kinds lie at the same addresses: where a buffer lies may change the time of a read by
// a third. Its bytes are such that every kind and type of scale finds ordinary numbers.
class SharedMemory {
 public:
  SharedMemory() : bytes_(int64_t(kSharedBytes)) {
    Rng rng(9);
    for (size_t i = 0; i < kSharedBytes; i += 8) {
      const uint64_t word = 0x3838383838383838u | (rng.bits() & 0x0707070707070707u);
      std::memcpy(bytes_.as<char>() + i, &word, sizeof(word));
    }
  }
  char* begin() const { return bytes_.as<char>(); }

 private:
  AlignedBytes bytes_;
};

// A weight in shared memory: as many copies as it holds, handed out in turn, or one that the caches may hold.
class SharedWeight {
 public:
  SharedWeight(std::shared_ptr<SharedMemory> memory, const cases::WeightSpec& spec, int64_t n, int64_t k,
               bool cold)
      : memory_(std::move(memory)) {
    weight_ = {.kind = spec.kind,
               .n = n,
               .k = k,
               .group_size = spec.group_size,
               .scale_dtype = spec.scales,
               .factor_dtype = spec.factors,
               .row_factors = spec.row_factors,
               .table = spec.table};
    weight_.data = memory_->begin();
    // What has_side() asks; next() sets what they point to.
    if (spec.zeros) weight_.zeros = reinterpret_cast<const uint8_t*>(memory_->begin());
    if (spec.offsets) weight_.offsets = memory_->begin();
    bytes_ = cpu16::matrix_bytes(spec.kind, n, k);
    for (const SideFormat& format : kSides) bytes_ += side_bytes(format.side);
    copies_ = cold ? std::max<int64_t>(1, int64_t(kSharedBytes) / bytes_) : 1;
    LLAMA4RT_CHECK(kInternal, bytes_ <= int64_t(kSharedBytes), "a weight of ", bytes_, " bytes");
  }
  const Weight& next() {
    const char* at = memory_->begin() + turn_++ % copies_ * bytes_;
    weight_.data = at;
    at += cpu16::matrix_bytes(weight_.kind, weight_.n, weight_.k);
    for (const SideFormat& format : kSides) {
      if (side_bytes(format.side) == 0) continue;
      set_side(weight_, format.side, at);
      at += side_bytes(format.side);
    }
    return weight_;
  }
  double bytes() const { return double(bytes_); }

 private:
  int64_t side_bytes(Side side) const {
    return cpu16::num_blocks(weight_.n) * side_block_bytes(weight_, side);
  }

  std::shared_ptr<SharedMemory> memory_;
  Weight weight_;
  int64_t bytes_ = 0, copies_ = 1, turn_ = 0;
};

template <class AnyWeight>
BenchCase linear_case(Device& device, Rng& rng, const cases::LinearCase& c, const cases::WeightSpec& spec,
                      const std::shared_ptr<AnyWeight>& weight) {
  const auto x = activations(rng, c.tokens, c.k);
  const auto out = std::make_shared<Matrix>(c.tokens, c.n);
  return {.op = "linear",
          .shape = error_text("T ", c.tokens, ", N ", c.n, ", K ", c.k, ", ", name_of(spec)),
          .bytes = weight->bytes() + 4.0 * double(c.tokens * (c.k + c.n)),
          .flops = 2.0 * double(c.tokens) * double(c.n) * double(c.k),
          .run = [&device, x, weight, out] { device.ops().linear(out->view(), x->view(), weight->next()); }};
}

std::vector<BenchCase> linear_cases(Device& device, const cases::WeightSpec& spec) {
  std::vector<BenchCase> all;
  std::shared_ptr<ColdWeight> weight;
  int64_t n = 0, k = 0;  // of `weight`
  Rng rng(2);
  for (const cases::LinearCase& c : cases::kLinearSpeed) {
    if (n != c.n || k != c.k)
      weight =
          std::make_shared<ColdWeight>(RandomWeight(rng, spec, 1, c.n, c.k), c.tokens < 64 ? kColdBytes : 0);
    n = c.n, k = c.k;
    all.push_back(linear_case(device, rng, c, spec, weight));
  }
  return all;
}

// All kinds of weights in turn, so that what else the machine does meets all of them alike.
std::vector<BenchCase> kinds_cases(Device& device, const cases::LinearCase& c) {
  std::vector<BenchCase> all;
  Rng rng(8);
  const auto memory = std::make_shared<SharedMemory>();
  for (const cases::WeightSpec& spec : cases::kWeightSpeed) {
    all.push_back(linear_case(device, rng, c, spec,
                              std::make_shared<SharedWeight>(memory, spec, c.n, c.k, c.tokens < 64)));
    all.back().beside = plain_place(spec);
  }
  return all;
}

// A Routing of given tokens that spreads them evenly over the experts, beginning with expert `first`.
struct EvenRouting {
  std::vector<int32_t> ids, sorted, offsets;
  std::vector<float> scores;
  Routing view;
  EvenRouting(int64_t tokens, int64_t top_k, int64_t experts, int64_t first) {
    const int64_t picks = tokens * top_k;
    for (int64_t s = 0; s < picks; ++s) ids.push_back(int32_t((s + first) % experts));
    scores.assign(size_t(picks), 0.5f);
    for (int64_t e = 0; e < experts; ++e) {
      offsets.push_back(int32_t(sorted.size()));
      for (int64_t s = (e - first + experts) % experts; s < picks; s += experts) sorted.push_back(int32_t(s));
    }
    offsets.push_back(int32_t(picks));
    view = {.expert_ids = Tensor(ids.data(), DType::kI32, {tokens, top_k}),
            .scores = Tensor(scores.data(), DType::kF32, {tokens, top_k}),
            .sorted_picks = Tensor(sorted.data(), DType::kI32, {picks}),
            .offsets = Tensor(offsets.data(), DType::kI32, {experts + 1})};
  }
};

std::vector<BenchCase> experts_cases(Device& device, const cases::WeightSpec& spec, bool gate_up) {
  std::vector<BenchCase> all;
  std::shared_ptr<ColdWeight> weight;
  int64_t hidden = 0, width = 0;  // of `weight`
  Rng rng(3);
  for (const cases::ExpertsCase& c : cases::kExpertsSpeed) {
    if (hidden != c.hidden || width != c.width) {
      RandomWeight made = gate_up ? RandomGateUp(rng, spec, c.experts, c.width, c.hidden)
                                  : RandomWeight(rng, spec, c.experts, c.hidden, c.width);
      weight = std::make_shared<ColdWeight>(std::move(made), c.tokens < 64 ? kColdBytes : 0);
    }
    hidden = c.hidden, width = c.width;
    const int64_t picks = c.tokens * c.top_k, in_rows = gate_up ? c.tokens : picks;
    // A single token reads one expert: take all of them in turn, or the same few megabytes stay in the cache.
    const auto routings = std::make_shared<std::vector<EvenRouting>>();
    routings->reserve(size_t(c.experts));  // the views point into their own vectors
    for (int64_t first = 0; first < c.experts; ++first)
      routings->emplace_back(c.tokens, c.top_k, c.experts, first);
    const auto in = activations(rng, in_rows, gate_up ? c.hidden : c.width);
    const auto out = activations(rng, gate_up ? picks : c.tokens, gate_up ? c.width : c.hidden);
    const double touched = double(std::min(picks, c.experts)) / double(c.experts);
    all.push_back({.op = gate_up ? "experts_gate_up" : "experts_down_add",
                   .shape = error_text("T ", c.tokens, ", H ", c.hidden, ", F ", c.width, ", E ", c.experts,
                                       ", ", name_of(spec)),
                   .bytes = touched * weight->bytes() +
                            4.0 * double(in->rows() * in->columns() + out->rows() * out->columns()),
                   .flops = (gate_up ? 4.0 : 2.0) * double(picks) * double(c.hidden) * double(c.width),
                   .run = [&device, gate_up, routings, in, out, weight, turn = size_t(0)]() mutable {
                     const Routing& routing = (*routings)[turn++ / weight->copies() % routings->size()].view;
                     if (gate_up)
                       device.ops().experts_gate_up(out->view(), in->view(), weight->next(), routing);
                     else
                       device.ops().experts_down_add(out->view(), in->view(), weight->next(), routing);
                   }});
  }
  return all;
}

// The keys and values of one sequence.
struct BenchCache {
  AlignedBytes k, v;
  KvLayer layer;
  std::vector<int32_t> query_start, table;
  std::vector<int64_t> first_position, kv_begin;
  AttentionBatch batch;

  BenchCache(Device& device, const cases::AttentionCase& c, Rng& rng) {
    const cases::AttentionSequence& s = c.sequences[0];
    const int64_t keys = s.first_position + s.length - s.kv_begin;
    layer = {.format = c.kv_format,
             .num_blocks = int32_t(ceil_div(keys, int64_t(c.block_size))),
             .block_size = c.block_size,
             .num_kv_heads = c.num_kv_heads,
             .head_dim = c.head_dim};
    k = AlignedBytes(layer.num_blocks * layer.block_bytes());
    v = AlignedBytes(int64_t(k.size()));
    layer.k = k.as<void>();
    layer.v = v.as<void>();
    const int64_t width = int64_t(c.num_kv_heads) * c.head_dim,
                  slots = int64_t(layer.num_blocks) * c.block_size;
    const Matrix numbers = test::random_activations(rng, c.block_size, 3 * width);
    for (int64_t first = 0; first < slots; first += c.block_size) {
      Matrix some = numbers;
      std::vector<int64_t> at(size_t(c.block_size));
      std::iota(at.begin(), at.end(), first);
      const Tensor all = some.view();
      device.ops().prepare_qkv(all.columns(0, width), all.columns(width, width),
                               all.columns(2 * width, width), {}, layer,
                               Tensor(at.data(), DType::kI64, {c.block_size}));
    }
    for (int32_t i = 0; i < layer.num_blocks; ++i) table.push_back(i);
    query_start = {0, int32_t(s.length)};
    first_position = {s.first_position};
    kv_begin = {s.kv_begin};
    batch = {.num_seqs = 1,
             .query_start = query_start.data(),
             .first_position = first_position.data(),
             .kv_begin = kv_begin.data(),
             .block_table = table.data(),
             .max_blocks = layer.num_blocks,
             .max_query_len = int(s.length)};
  }
};

std::vector<BenchCase> attention_cases(Device& device) {
  Rng rng(4);
  std::vector<BenchCase> all;
  std::vector<cases::AttentionCase> shapes = cases::attention_speed_cases(), formats;
  shapes.push_back(shapes.back());
  shapes.back().sequences = {{.first_position = 7680, .length = 512}};
  for (cases::AttentionCase c : shapes)
    for (const KvKind format : {KvKind::kBF16, KvKind::kInt16, KvKind::kInt8, KvKind::kInt4}) {
      c.kv_format = format;
      formats.push_back(c);
    }
  for (const cases::AttentionCase& c : formats) {
    const cases::AttentionSequence& s = c.sequences[0];
    const auto cache = std::make_shared<BenchCache>(device, c, rng);
    const int64_t heads = c.num_kv_heads * c.group, width = heads * c.head_dim;
    const auto q = activations(rng, s.length, width), out = std::make_shared<Matrix>(s.length, width);
    double pairs = 0;  // of query and key
    for (int64_t i = 0; i < s.length; ++i) pairs += double(s.first_position + i + 1 - s.kv_begin);
    all.push_back({.op = "paged_attention",
                   .shape = error_text("T ", s.length, " at ", s.first_position, ", ", c.num_kv_heads, " x ",
                                       c.group, " heads of ", c.head_dim, ", ", kv_kind_name(c.kv_format)),
                   .bytes = double(cache->k.size() + cache->v.size()) + 8.0 * double(s.length * width),
                   .flops = 4.0 * pairs * double(heads * c.head_dim),
                   .run = [&device, cache, q, out, scale = 1.0f / std::sqrt(float(c.head_dim))] {
                     device.ops().paged_attention(out->view(), q->view(), cache->layer, cache->batch, scale);
                   }});
  }
  return all;
}

std::vector<BenchCase> tile_attention_cases(Device& device) {
  Rng rng(7);
  std::vector<BenchCase> all;
  for (const cases::TilesCase& c : cases::kTilesSpeed) {
    const int64_t rows = c.tiles * c.rows, width = c.num_heads * c.head_dim;
    const auto qkv = activations(rng, rows, 3 * width), out = std::make_shared<Matrix>(rows, width);
    all.push_back(
        {.op = "tile_attention",
         .shape = error_text(c.tiles, " x ", c.rows, " rows, ", c.num_heads, " heads of ", c.head_dim),
         .bytes = 16.0 * double(rows * width),
         .flops = 4.0 * double(rows * c.rows * width),
         .run = [&device, qkv, out, c, width, scale = 1.0f / std::sqrt(float(c.head_dim))] {
           const Tensor in = qkv->view();
           device.ops().tile_attention(out->view(), in.columns(0, width), in.columns(width, width),
                                       in.columns(2 * width, width), c.rows, c.num_heads, scale);
         }});
  }
  return all;
}

}  // namespace

std::vector<BenchGroup> groups() {
  std::vector<BenchGroup> all = {
      {"rmsnorm", rmsnorm_cases}, {"layernorm", layernorm_cases}, {"gelu", gelu_cases}};
  for (const cases::WeightSpec& spec : {cases::kInt4, cases::kInt8, cases::kBF16})
    all.push_back({"linear " + name_of(spec), [spec](Device& b) { return linear_cases(b, spec); }});
  for (const cases::LinearCase& c : cases::kWeightSpeedShapes)
    all.push_back({error_text("kinds ", c.tokens), [c](Device& b) { return kinds_cases(b, c); }});
  all.push_back({"experts_gate_up", [](Device& b) { return experts_cases(b, cases::kInt4, true); }});
  all.push_back({"experts_down_add", [](Device& b) { return experts_cases(b, cases::kInt4, false); }});
  all.push_back({"paged_attention", attention_cases});
  all.push_back({"tile_attention", tile_attention_cases});
  return all;
}

}  // namespace llama4rt::bench
