#include "weights/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>

#include "base/error.h"
#include "weights/pack_blocks.h"
#include "weights/quantize.h"
#include "weights/source_rows.h"

namespace llama4rt {
namespace {

// Neighbouring rows read together: 32 bf16 values are one cache line of a transposed source.
constexpr int64_t kRowsPerItem = 32;

// Squares and error of one row whose values were rounded to bf16.
PackError measure_bf16(const float* w, const uint16_t* bits, int64_t k) {
  PackError error;
  for (int64_t i = 0; i < k; ++i) {
    const double e = double(w[i]) - double(to_float(bf16{bits[i]}));
    error.squared += e * e;
    error.weight_squared += double(w[i]) * double(w[i]);
    error.max_abs = std::max(error.max_abs, std::fabs(e));
  }
  return error;
}

double sum_of_squares(const float* w, int64_t k) {
  double lanes[8] = {};
  int64_t i = 0;
  for (; i + 8 <= k; i += 8)
    for (int j = 0; j < 8; ++j) lanes[j] += double(w[i + j]) * double(w[i + j]);
  for (int j = 0; i < k; ++i, ++j) lanes[j] += double(w[i]) * double(w[i]);
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

// Packs single rows; one per thread, for its scratch memory.
class RowPacker {
 public:
  explicit RowPacker(const PackSpec& spec)
      : spec_(spec),
        lines_(cpu16::lines_per_block(spec.kind, spec.k)),
        // A group may read and write zeros up to its padding, past the last group's end.
        codes_(size_t(round_up(spec.k, int64_t(16)) + kGroupPadding)),
        halves_(weight_format(spec.kind).is_scaled ? 0 : codes_.size()) {}

  // w: [k], zeros past it.
  PackError pack(const float* w, int64_t lane, PackedBlock& block) {
    if (!weight_format(spec_.kind).is_scaled) {
      for (int64_t i = 0; i < spec_.k; ++i) halves_[size_t(i)] = to_bf16(w[i]).bits;
      put_row<WeightKind::kBF16>(block, spec_, lane, halves_.data(), lines_);
      return measure_bf16(w, halves_.data(), spec_.k);
    }
    GroupError group_error;
    for (int64_t group = 0; group < spec_.num_groups(); ++group) {
      const int64_t begin = group * spec_.group_size;
      const int64_t count = std::min(int64_t(spec_.group_size), spec_.k - begin);
      const float scale =
          quantize_group(spec_.kind)(w + begin, count, spec_.scale_dtype, codes_.data() + begin, group_error);
      put_scale(block, lane, group, scale, spec_.scale_dtype);
    }
    std::fill(codes_.begin() + spec_.k, codes_.end(), uint8_t(0));  // the layout pads K with q = 0
    with_weight_kind(spec_.kind,
                     [&]<WeightKind kind>() { put_row<kind>(block, spec_, lane, codes_.data(), lines_); });
    return {group_error.squared, sum_of_squares(w, spec_.k), double(group_error.max_abs)};
  }

 private:
  const PackSpec& spec_;
  int64_t lines_;
  std::vector<uint8_t> codes_;
  std::vector<uint16_t> halves_;
};

// The earliest bad element any thread has met.
class FirstBadElement {
 public:
  void report(int64_t row, int64_t column, float value) {
    const std::lock_guard lock(mutex_);
    if (row_ >= 0 && row_ <= row) return;
    row_ = row;
    column_ = column;
    value_ = value;
  }
  void throw_if_any(const std::string& what) const {
    LLAMA4RT_CHECK(kCheckpoint, row_ < 0, what, ": element [", row_, ", ", column_, "] is ",
                   std::isnan(value_) ? "NaN"
                   : value_ > 0       ? "Inf"
                                      : "-Inf",
                   "; weights must be finite");
  }

 private:
  std::mutex mutex_;
  int64_t row_ = -1;
  int64_t column_ = 0;
  float value_ = 0;
};

// Work items: runs of blocks whose source rows lie close together, so that they are read at once.
std::vector<std::span<const BlockRows>> make_items(const std::vector<BlockRows>& blocks) {
  std::vector<std::span<const BlockRows>> items;
  for (size_t begin = 0, end; begin < blocks.size(); begin = end) {
    int64_t first = blocks[begin].first, last = blocks[begin].last;
    for (end = begin + 1; end < blocks.size(); ++end) {
      const int64_t low = std::min(first, blocks[end].first), high = std::max(last, blocks[end].last);
      if (high - low >= kRowsPerItem) break;
      first = low;
      last = high;
    }
    items.emplace_back(&blocks[begin], end - begin);
  }
  return items;
}

PackError sum_in_order(const std::vector<PackError>& errors) {
  PackError total;
  for (const PackError& error : errors) total.add(error);
  return total;
}

}  // namespace

void PackError::add(const PackError& other) {
  squared += other.squared;
  weight_squared += other.weight_squared;
  max_abs = std::max(max_abs, other.max_abs);
}

double PackError::relative_rms() const {
  return weight_squared > 0 ? std::sqrt(squared / weight_squared) : 0.0;
}

PackError pack_rows(const PackSpec& spec, const SourceMatrix& source, std::span<const int64_t> rows,
                    BlockStore& store, ThreadPool& pool, const std::string& what) {
  const std::vector<BlockRows> blocks = group_by_block(rows, spec.n);
  const auto items = make_items(blocks);
  std::vector<PackError> errors(rows.size());
  FirstBadElement bad;
  pool.parallel_for(int64_t(items.size()), 1, [&](int64_t begin, int64_t end) {
    SourceRows values(source);
    RowPacker packer(spec);
    PackedBlock block;
    for (int64_t i = begin; i < end; ++i) {
      const auto item = items[size_t(i)];
      int64_t first = item[0].first, last = item[0].last;
      for (const BlockRows& b : item) {
        first = std::min(first, b.first);
        last = std::max(last, b.last);
      }
      // Rows of one block may come from far apart; then they are loaded one at a time.
      const bool together = last - first < kRowsPerItem;
      if (together) values.load(first, last - first + 1);
      for (const BlockRows& b : item) {
        prepare(spec, b, store, block);
        for (int64_t lane = 0; lane < cpu16::kRows; ++lane) {
          const int64_t row = b.source[lane];
          if (row < 0) continue;
          if (!together) values.load(row, 1);
          const float* w = values.row(row);
          if (const int64_t column = values.find_non_finite(row); column >= 0) {
            bad.report(row, column, w[column]);
            continue;
          }
          errors[size_t(row)] = packer.pack(w, lane, block);
        }
        store.store(b.block, block);
      }
    }
  });
  bad.throw_if_any(what);
  const PackError total = sum_in_order(errors);
  LLAMA4RT_CHECK(kCheckpoint, std::isfinite(total.max_abs), what, ": a value is too large for bf16");
  return total;
}

PackError convert_rows_to_bf16(const SourceMatrix& source, std::span<bf16> out, ThreadPool& pool,
                               const std::string& what) {
  std::vector<PackError> errors(size_t(source.rows));
  FirstBadElement bad;
  pool.parallel_for(source.rows, kRowsPerItem, [&](int64_t begin, int64_t end) {
    SourceRows values(source);
    std::vector<uint16_t> bits(size_t(source.columns));
    for (int64_t first = begin; first < end; first += kRowsPerItem) {
      const int64_t last = std::min(end, first + kRowsPerItem);
      values.load(first, last - first);
      for (int64_t row = first; row < last; ++row) {
        const float* w = values.row(row);
        if (const int64_t column = values.find_non_finite(row); column >= 0) {
          bad.report(row, column, w[column]);
          continue;
        }
        for (int64_t c = 0; c < source.columns; ++c) bits[size_t(c)] = to_bf16(w[c]).bits;
        errors[size_t(row)] = measure_bf16(w, bits.data(), source.columns);
        if (source.columns > 0)
          std::memcpy(&out[size_t(row * source.columns)], bits.data(), size_t(source.columns) * 2);
      }
    }
  });
  bad.throw_if_any(what);
  const PackError total = sum_in_order(errors);
  LLAMA4RT_CHECK(kCheckpoint, std::isfinite(total.max_abs), what, ": a value is too large for bf16");
  return total;
}

}  // namespace llama4rt
