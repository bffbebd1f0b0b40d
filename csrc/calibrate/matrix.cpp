#include "calibrate/matrix.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "base/checked_math.h"
#include "base/error.h"
#include "calibrate/share.h"
#include "weights/layout.h"

namespace llama4rt::calibrate {
namespace {

constexpr size_t kAlignment = 64;  // of the kernels' loads

int64_t scale_elements(const Weight& w) {
  return w.quantized() ? w.num_experts * cpu16::matrix_scales(w.n, w.k, w.group_size) : 0;
}
int64_t aligned(int64_t bytes) { return round_up(bytes, int64_t(kAlignment)); }
int64_t data_bytes(const Weight& w) {
  return aligned(w.num_experts * matrix_bytes(w.layout, w.kind, w.n, w.k));
}
int64_t scale_bytes(const Weight& w) {
  return aligned(scale_elements(w) * int64_t(dtype_size(w.scale_dtype)));
}

}  // namespace

void Matrix::Free::operator()(std::byte* p) const { std::free(p); }

int64_t Matrix::bytes(const Weight& shape, bool offsets) {
  return data_bytes(shape) + (offsets ? 2 : 1) * scale_bytes(shape);
}

Matrix::Matrix(const Weight& shape, bool offsets) : view_(shape) {
  LLAMA4RT_CHECK(kInternal, shape.layout == Layout::kCpu16 || !shape.quantized(),
                 "a matrix of codes must be cpu16");
  LLAMA4RT_CHECK(kInternal, !has_factors(shape.scale_dtype),
                 "a matrix of codes must have scales without factors");
  const auto size = size_t(std::max<int64_t>(bytes(shape, offsets), int64_t(kAlignment)));
  // calloc would not align: zeroed below, page by page as blocks are stored; what is never stored must be zero too.
  memory_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, size)));
  LLAMA4RT_CHECK(kInternal, memory_, "out of memory: the system refused ", size,
                 " bytes for a layer's weight");
  std::memset(memory_.get(), 0, size);
  view_.data = memory_.get();
  view_.scales = view_.quantized() ? memory_.get() + data_bytes(shape) : nullptr;
  view_.offsets = offsets ? memory_.get() + data_bytes(shape) + scale_bytes(shape) : nullptr;
  view_.zeros = nullptr;
}

// Blocks of 16 rows of one expert.
class Matrix::Blocks final : public BlockStore {
 public:
  Blocks(const Weight& view, const PackSpec& spec, int64_t expert) : spec_(spec) {
    const Weight one = expert_view(view, expert);
    data_ = static_cast<char*>(const_cast<void*>(one.data));
    scales_ = static_cast<char*>(const_cast<void*>(one.scales));
    offsets_ = static_cast<char*>(const_cast<void*>(one.offsets));
  }
  void load(int64_t index, PackedBlock& block) override {
    copy(block.data, data_ + index * spec_.data_bytes_per_block());
    copy(block.side(Side::kScales), scales_ + index * side_block_bytes(spec_, Side::kScales));
    copy(block.side(Side::kOffsets), offsets_ + index * side_block_bytes(spec_, Side::kOffsets));
  }
  void store(int64_t index, const PackedBlock& block) override {
    put(data_ + index * spec_.data_bytes_per_block(), block.data);
    const auto& scales = block.sides[size_t(Side::kScales)];
    const auto& offsets = block.sides[size_t(Side::kOffsets)];
    put(scales_ + index * side_block_bytes(spec_, Side::kScales), scales);
    put(offsets_ + index * side_block_bytes(spec_, Side::kOffsets), offsets);
  }

 private:
  static void copy(std::vector<unsigned char>& to, const char* from) {
    if (!to.empty()) std::memcpy(to.data(), from, to.size());
  }
  static void put(char* to, const std::vector<unsigned char>& from) {
    if (!from.empty()) std::memcpy(to, from.data(), from.size());
  }

  const PackSpec& spec_;
  char *data_, *scales_, *offsets_;
};

PackSpec Matrix::pack_spec() const {
  return {.kind = view_.kind,
          .n = view_.n,
          .k = view_.k,
          .group_size = view_.group_size,
          .scale_dtype = view_.scale_dtype,
          .offsets = view_.offsets != nullptr,
          .layout = view_.layout};
}

void Matrix::pack(int64_t expert, std::span<const int64_t> rows, const SourceMatrix& source, ThreadPool& pool,
                  const std::string& what) {
  const PackSpec spec = pack_spec();
  Blocks blocks(view_, spec, expert);
  pack_rows(spec, source, rows, blocks, pool, what);
}

void Matrix::pack_codes(int64_t expert, std::span<const int64_t> rows, const CodeRows& source,
                        ThreadPool& pool, const std::string& what) {
  const PackSpec spec = pack_spec();
  Blocks blocks(view_, spec, expert);
  llama4rt::pack_codes(spec, source, rows, blocks, pool, what);
}

void Matrix::read_values(float* out, int64_t expert, std::span<const int64_t> rows, ThreadPool& pool) const {
  LLAMA4RT_CHECK(kInternal, view_.kind == WeightKind::kBF16, "values of ", weight_kind_name(view_.kind),
                 " codes");
  const auto* const data = static_cast<const char*>(expert_view(view_, expert).data);
  share(pool, int64_t(rows.size()), [&](int, int64_t i) {
    float* const to = out + i * view_.k;
    const char* line = data + cpu16::word_offset(WeightKind::kBF16, rows[size_t(i)], 0, view_.k);
    for (int64_t k = 0; k < view_.k; k += 2, line += cpu16::kLineBytes) {
      bf16 pair[2];  // even k in the low half
      std::memcpy(pair, line, sizeof pair);
      to[k] = to_float(pair[0]);
      if (k + 1 < view_.k) to[k + 1] = to_float(pair[1]);
    }
  });
}

void Matrix::read_codes(uint8_t* codes, float* scales, float* offsets, int64_t expert,
                        std::span<const int64_t> rows, ThreadPool& pool) const {
  const Weight one = expert_view(view_, expert);
  const int64_t values = cpu16::values_per_word(one.kind), groups = one.num_groups();
  const uint32_t mask = code_mask(one.kind);
  share(pool, int64_t(rows.size()), [&](int, int64_t i) {
    const int64_t row = rows[size_t(i)];
    uint8_t* const to = codes + i * one.k;
    const char* line = static_cast<const char*>(one.data) + cpu16::word_offset(one.kind, row, 0, one.k);
    for (int64_t k = 0; k < one.k; k += values, line += cpu16::kLineBytes) {
      uint32_t word;
      std::memcpy(&word, line, sizeof word);
      for (int64_t j = 0; j < std::min(values, one.k - k); ++j)
        to[k + j] = uint8_t(word >> cpu16::bit_offset(one.kind, j) & mask);
    }
    for (int64_t g = 0; g < groups; ++g) {
      scales[i * groups + g] = group_scale(one, row, g);
      if (one.offsets) offsets[i * groups + g] = group_offset(one, row, g);
    }
  });
}

}  // namespace llama4rt::calibrate
