#include "model/adapter.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/thread_pool.h"
#include "weights/layout.h"
#include "weights/pack.h"

namespace llama4rt {
namespace {

constexpr int64_t kAlignment = 64;  // of the kernels' loads
constexpr const char* kMatrices[] = {"q", "k", "v", "o"};

// One packed matrix in memory.
class Blocks final : public BlockStore {
 public:
  explicit Blocks(const Weight& w, int64_t block_bytes)
      : data_(static_cast<char*>(const_cast<void*>(w.data))), block_bytes_(block_bytes) {}
  void load(int64_t index, PackedBlock& block) override {
    std::memcpy(block.data.data(), data_ + index * block_bytes_, block.data.size());
  }
  void store(int64_t index, const PackedBlock& block) override {
    std::memcpy(data_ + index * block_bytes_, block.data.data(), block.data.size());
  }

 private:
  char* const data_;
  const int64_t block_bytes_;
};

std::string name_of(const Adapter::Change& change) {
  return error_text("layers.", change.layer, ".attn.", change.matrix);
}

}  // namespace

Adapter::Adapter(const ModelConfig& config, std::vector<Change> changes)
    : layers_(config.num_hidden_layers),
      hidden_(config.hidden_size),
      q_dim_(config.q_dim()),
      kv_dim_(config.kv_dim()),
      factors_(size_t(config.num_hidden_layers) * kNumProducts) {
  LLAMA4RT_CHECK(kConfig, !changes.empty(), "an adapter without factors changes nothing");
  const auto place = [](const Change& c) {
    return std::pair(c.layer, std::find(std::begin(kMatrices), std::end(kMatrices), c.matrix) - kMatrices);
  };
  std::stable_sort(changes.begin(), changes.end(),
                   [&](const Change& a, const Change& b) { return place(a) < place(b); });
  Sha256 hash;
  for (size_t i = 0; i < changes.size(); ++i) {
    const Change& c = changes[i];
    const auto [layer, matrix] = place(c);
    LLAMA4RT_CHECK(kConfig, layer >= 0 && layer < layers_ && matrix < std::ssize(kMatrices), name_of(c),
                   ": is no matrix of attention in a model of ", layers_, " layers");
    LLAMA4RT_CHECK(kConfig, i == 0 || place(changes[i - 1]) != place(c), name_of(c), ": is changed twice");
    const bool is_o = c.matrix == "o";
    const int64_t n = is_o ? hidden_ : c.matrix == "q" ? q_dim_ : kv_dim_, k = is_o ? q_dim_ : hidden_;
    LLAMA4RT_CHECK(kConfig, c.n == n && c.k == k && c.rank > 0, name_of(c), ": the factors are [", c.n, ", ",
                   c.rank, "] and [", c.rank, ", ", c.k, "]; the model's matrix is [", n, ", ", k, "]");
    const int64_t numbers[] = {layer, int64_t(matrix), c.rank};
    hash.update(numbers, sizeof numbers);
    hash.update(&c.scale, sizeof c.scale);
    hash.update(c.a, size_t(c.rank * c.k) * sizeof(float));
    hash.update(c.b, size_t(c.n * c.rank) * sizeof(float));
  }
  digest_ = hash.digest();
  for (auto it = changes.begin(); it != changes.end();) {
    const bool is_o = it->matrix == "o";
    std::vector<const Change*> together;
    for (const int64_t layer = it->layer;
         it != changes.end() && it->layer == layer && (it->matrix == "o") == is_o; ++it)
      together.push_back(&*it);
    add(is_o ? Product::kO : Product::kQkv, together);
  }
}

// The changes of one layer's product, in the order of its outputs.
void Adapter::add(Product product, const std::vector<const Change*>& changes) {
  auto factors = std::make_unique<LoraFactors>();
  int64_t ranks = 0;
  for (const Change* c : changes) ranks += c->rank;
  factors->a = reserved(ranks, changes.front()->k);
  int64_t first = 0;
  for (const Change* c : changes) {
    pack_into(factors->a, first, c->a, c->rank, name_of(*c));
    LoraFactors::Output output;
    output.b = reserved(c->n, c->rank);
    pack_into(output.b, 0, c->b, c->n, name_of(*c));
    output.first_rank = first;
    output.first_column = c->matrix == "k" ? q_dim_ : c->matrix == "v" ? q_dim_ + kv_dim_ : 0;
    output.scale = float(c->scale);
    factors->outputs.push_back(output);
    first += c->rank;
  }
  factors_[size_t(changes.front()->layer) * kNumProducts + size_t(product)] = std::move(factors);
}

// Memory of a matrix [n, k], of zeros.
Weight Adapter::reserved(int64_t n, int64_t k) {
  Weight w;
  w.n = n;
  w.k = k;
  const int64_t size = round_up(matrix_bytes(w.layout, w.kind, n, k), kAlignment);
  memory_.emplace_back(static_cast<std::byte*>(std::aligned_alloc(kAlignment, size_t(size))));
  LLAMA4RT_CHECK(kInternal, memory_.back(), "out of memory: the system refused ", size,
                 " bytes for an adapter's factors");
  std::memset(memory_.back().get(), 0, size_t(size));
  bytes_ += size;
  w.data = memory_.back().get();
  return w;
}

void Adapter::pack_into(const Weight& to, int64_t first_row, const float* data, int64_t rows,
                        const std::string& what) {
  const PackSpec spec{.kind = to.kind, .n = to.n, .k = to.k, .layout = to.layout};
  const SourceMatrix source{.data = data,
                            .dtype = DType::kF32,
                            .rows = rows,
                            .columns = to.k,
                            .row_bytes = to.k * int64_t(sizeof(float)),
                            .column_bytes = int64_t(sizeof(float))};
  std::vector<int64_t> places(static_cast<size_t>(rows));
  std::iota(places.begin(), places.end(), first_row);
  Blocks blocks(to, spec.data_bytes_per_block());
  ThreadPool pool(1);
  pack_rows(spec, source, places, blocks, pool, what);
}

bool Adapter::fits(const ModelConfig& config) const {
  return config.num_hidden_layers == layers_ && config.hidden_size == hidden_ && config.q_dim() == q_dim_ &&
         config.kv_dim() == kv_dim_;
}

}  // namespace llama4rt
