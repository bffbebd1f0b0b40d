// The end of the range: ten million keys, and blocks, slots and bytes whose numbers do not fit 32 bits. The memory
// behind them is only reserved; few blocks are real.
#include "ops/conformance.h"

namespace llama4rt::test {
namespace {

constexpr int kBlock = 16;
constexpr int64_t kTenMillion = 10'485'760;  // Scout's context

// A cache of which pages exist once they are written.
class ReservedCache {
 public:
  ReservedCache(Device& device, int num_blocks, int num_kv_heads, int head_dim, KvKind format)
      : device_(device),
        layer_{.format = format,
               .num_blocks = num_blocks,
               .block_size = kBlock,
               .num_kv_heads = num_kv_heads,
               .head_dim = head_dim} {
    bytes_ = size_t(num_blocks) * size_t(layer_.block_bytes());
    layer_.k = device.allocate(bytes_);
    layer_.v = device.allocate(bytes_);
  }
  ~ReservedCache() {
    device_.deallocate(layer_.k, bytes_);
    device_.deallocate(layer_.v, bytes_);
  }
  ReservedCache(const ReservedCache&) = delete;
  ReservedCache& operator=(const ReservedCache&) = delete;

  const KvLayer& layer() const { return layer_; }
  size_t bytes() const { return bytes_; }  // of the keys, and again of the values

  // Row j of k and v, [blocks.size() * kBlock, Hkv * D] each, goes to place j % kBlock of block blocks[j / kBlock].
  void fill(const std::vector<int32_t>& blocks, Matrix k, Matrix v) {
    std::vector<int64_t> slots;
    for (const int32_t block : blocks)
      for (int64_t i = 0; i < kBlock; ++i) slots.push_back(int64_t(block) * kBlock + i);
    Matrix q(k.rows(), k.columns());
    for (int64_t i = 0; i < q.rows(); ++i) std::fill_n(q.row(i), q.columns(), 0.0f);
    device_.ops().prepare_qkv(q.view(), k.view(), v.view(), {}, layer_,
                              Tensor(slots.data(), DType::kI64, {int64_t(slots.size())}));
  }

  // What one query, q [1, Hq * D], at `position` sees of the keys from `begin` on, which lie in `table`.
  Matrix attend(const Matrix& q, int64_t position, int64_t begin, const std::vector<int32_t>& table) const {
    const int32_t query_start[] = {0, 1};
    AttentionBatch batch;
    batch.num_seqs = 1;
    batch.max_query_len = 1;
    batch.max_blocks = int(table.size());
    batch.query_start = query_start;
    batch.first_position = &position;
    batch.kv_begin = &begin;
    batch.block_table = table.data();
    Matrix query = q, out(1, q.columns());
    device_.ops().paged_attention(out.view(), query.view(), layer_, batch,
                                  1.0f / std::sqrt(float(layer_.head_dim)));
    return out;
  }

 private:
  Device& device_;
  KvLayer layer_;
  size_t bytes_ = 0;
};

// Of -1, 0 and 1 alone, which every format of the cache holds exactly.
Matrix random_signs(Rng& rng, int64_t rows, int64_t columns) {
  Matrix m(rows, columns);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) m.row(i)[j] = float(rng.below(3) - 1);
  return m;
}

// One KV head and one query head. `seen`[j]: how often the query sees key j.   k, v: [keys, D], q: [1, D]
std::vector<double> attention_in_double(const Matrix& q, const Matrix& k, const Matrix& v,
                                        const std::vector<int64_t>& seen) {
  const int64_t dim = q.columns();
  std::vector<double> out(static_cast<size_t>(dim));
  double sum = 0;
  for (int64_t j = 0; j < k.rows(); ++j) {
    double dot = 0;
    for (int64_t d = 0; d < dim; ++d) dot += double(q.row(0)[d]) * double(k.row(j)[d]);
    const double weight = double(seen[size_t(j)]) * std::exp(dot / std::sqrt(double(dim)));
    sum += weight;
    for (int64_t d = 0; d < dim; ++d) out[size_t(d)] += weight * double(v.row(j)[d]);
  }
  for (double& x : out) x /= sum;
  return out;
}

constexpr KvKind kFormats[] = {KvKind::kBF16, KvKind::kInt16, KvKind::kInt8, KvKind::kF8E4M3};

}  // namespace

// Ten million keys in forty real blocks, each of which stands in the table many times: what a query sees of them can be
// computed in double from forty blocks and their counts.
TEST(ten_million_keys) {
  SEEDED(rng);
  constexpr int kDim = 16, kReal = 40;
  constexpr int64_t kKeys = kTenMillion - 3;  // the last block is not full
  constexpr int kBlocks = int(kTenMillion / kBlock);
  std::vector<int32_t> real = {kBlocks - 1, 0};
  while (real.size() < kReal) real.push_back(int32_t(rng.below(kBlocks)));
  const Matrix k = random_signs(rng, kReal * kBlock, kDim), v = random_signs(rng, kReal * kBlock, kDim);
  Matrix q = random_signs(rng, 1, kDim);
  for (int64_t d = 0; d < kDim; ++d) q.row(0)[d] *= 3;
  std::vector<int32_t> table;
  std::vector<int64_t> seen(static_cast<size_t>(kReal * kBlock));
  for (int64_t key = 0; key < kKeys; key += kBlock) {
    const int64_t chosen = rng.below(kReal);
    table.push_back(real[size_t(chosen)]);
    for (int64_t i = 0; i < std::min<int64_t>(kBlock, kKeys - key); ++i) ++seen[size_t(chosen * kBlock + i)];
  }
  CHECK_EQ(int64_t(table.size()), int64_t(kBlocks));
  const std::vector<double> expected = attention_in_double(q, k, v, seen);

  const std::vector<Subject>& all = subjects();
  for (const KvKind format : kFormats) {
    std::vector<Matrix> found;
    for (size_t i = 0; i < all.size(); ++i) {
      // All tables with the default format, the best one on three threads with the others.
      if (format != KvKind::kInt16 && i + 1 < all.size()) continue;
      SCOPE(all[i].label, ", ", kv_kind_name(format));
      ReservedCache cache(*all[i].device, kBlocks, 1, kDim, format);
      cache.fill(real, k, v);
      const Matrix out = cache.attend(q, kKeys - 1, 0, table);
      // Sums of 10^7 terms in fp32, in pieces; weights of 16 bits where the cache holds integers.
      for (int64_t d = 0; d < kDim; ++d) CHECK_CLOSE(out.row(0)[d], float(expected[size_t(d)]), 2e-5f);
      found.push_back(out);
      CHECK(out == found.front());
    }
  }
}

// The same numbers near the beginning and far away give the same bits: in blocks whose slots pass 2^32 and whose bytes
// pass 2^38, at positions behind 2^33.
TEST(far_blocks_give_the_bits_of_near_ones) {
  SEEDED(rng);
  constexpr int kHeads = 2, kDim = 64, kFar = (1 << 28) + 3;
  constexpr int64_t kFarPosition = (int64_t(1) << 33) + 16 * 1000;
  const std::vector<int32_t> near = {2, 0, 3, 1}, far = {kFar - 1, 7, kFar - 2, 1 << 27};
  const Matrix k = random_activations(rng, 4 * kBlock, kHeads * kDim),
               v = random_activations(rng, 4 * kBlock, kHeads * kDim),
               q = random_activations(rng, 1, kHeads * kDim);
  for (const KvKind format : kFormats)
    for (const Subject& s : subjects()) {
      SCOPE(s.label, ", ", kv_kind_name(format));
      ReservedCache here(*s.device, 4, kHeads, kDim, format), there(*s.device, kFar, kHeads, kDim, format);
      CHECK(there.bytes() > (size_t(1) << 38));
      here.fill(near, k, v);
      there.fill(far, k, v);
      for (const int64_t last : {0, 15, 16, 50, 63}) {
        const Matrix expected = here.attend(q, last, 0, near);
        CHECK(there.attend(q, last, 0, far) == expected);
        CHECK(there.attend(q, kFarPosition + last, kFarPosition, far) == expected);
      }
    }
}

}  // namespace llama4rt::test
