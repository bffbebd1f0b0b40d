// Ready codes into stored blocks, bit for bit, and what is refused among them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>

#include "base/error.h"
#include "weights/pack_blocks.h"

namespace llama4rt {
namespace {

// The largest magnitude that codes stand for before their scale, whatever the zero point.
float largest_code_value(const PackSpec& spec) {
  float largest = 0;
  for (uint32_t code = 0; code <= code_mask(spec.kind); ++code) {
    const float value = std::fabs(code_value(spec.kind, code, 0, spec.table));
    if (std::isfinite(value)) largest = std::max(largest, value);
  }
  return largest;
}

// The complaint about the first source row that has one, whichever thread meets it first.
class FirstComplaint {
 public:
  void add(int64_t row, std::string text) {
    const std::lock_guard lock(mutex_);
    if (row_ >= 0 && row_ <= row) return;
    row_ = row;
    text_ = std::move(text);
  }
  void throw_if_any(const std::string& what) const {
    LLAMA4RT_CHECK(kCheckpoint, row_ < 0, what, ": ", text_);
  }

 private:
  std::mutex mutex_;
  int64_t row_ = -1;
  std::string text_;
};

// Checks and writes single source rows; one per thread, for its scratch memory.
class CodeRowPacker {
 public:
  CodeRowPacker(const PackSpec& spec, const CodeRows& source)
      : spec_(spec),
        source_(source),
        groups_(spec.num_groups()),
        lines_(cpu16::lines_per_block(spec.kind, spec.k)),
        mask_(code_mask(spec.kind)),
        nan_(weight_format(spec.kind).meaning == CodeMeaning::kFloat8 ? 0x7f : 0x100),
        largest_(largest_code_value(spec)),
        codes_(size_t(round_up(spec.k, int64_t(16)))) {}  // whole words of either layout

  // Writes row `row` into its lane; returns what is wrong with it, or nothing.
  std::string pack(int64_t row, int64_t lane, PackedBlock& block) {
    if (std::string wrong = pack_values(row, lane, block); !wrong.empty()) return wrong;
    for (int64_t g = 0; g < groups_; ++g)
      if (std::string wrong = check_group(row, g); !wrong.empty()) return wrong;
    copy(Side::kScales, source_.scales, row, lane, block);
    copy(Side::kZeros, source_.zeros, row, lane, block);
    copy(Side::kOffsets, source_.offsets, row, lane, block);
    copy(Side::kFactors, source_.factors, row, lane, block);
    copy(Side::kOffsetFactors, source_.offset_factors, row, lane, block);
    return "";
  }

 private:
  std::string pack_values(int64_t row, int64_t lane, PackedBlock& block) {
    std::copy_n(source_.codes + row * spec_.k, spec_.k, codes_.begin());
    bool bad = false;  // of all codes at once: the loop becomes a few vector instructions
    for (int64_t k = 0; k < spec_.k; ++k) bad |= is_bad(codes_[size_t(k)]);
    if (bad) {
      const auto at =
          std::find_if(codes_.begin(), codes_.end(), [this](uint8_t code) { return is_bad(code); });
      const std::string place = error_text("code [", row, ", ", at - codes_.begin(), "] is ");
      if (*at > mask_)
        return error_text(place, int(*at), "; ", weight_kind_name(spec_.kind), " has 0..", mask_);
      return place + "NaN; weights must be finite";
    }
    with_weight_kind(spec_.kind,
                     [&]<WeightKind kind>() { put_row<kind>(block, spec_, lane, codes_.data(), lines_); });
    return "";
  }
  bool is_bad(uint8_t code) const { return code > mask_ || (code & nan_) == nan_; }

  std::string check_group(int64_t row, int64_t g) const {
    const auto number = [&](const void* numbers, const void* factors) {
      const float found = scale_number(numbers, spec_.scale_dtype, row * groups_ + g);
      if (!factors) return found;
      const int64_t columns = side_columns(spec_, Side::kFactors);
      return found * scale_number(factors, spec_.factor_dtype, row * columns + factor_column(spec_, g));
    };
    const float scale = number(source_.scales, source_.factors);
    const float offset = spec_.offsets ? number(source_.offsets, source_.offset_factors) : 0.0f;
    if (!std::isfinite(scale))
      return error_text("scale [", row, ", ", g, "] is ", scale, "; it must be finite");
    if (!std::isfinite(offset))
      return error_text("offset [", row, ", ", g, "] is ", offset, "; it must be finite");
    if (!std::isfinite(largest_ * std::fabs(scale) + std::fabs(offset)))
      return error_text("scale [", row, ", ", g, "] is ", scale, "; its largest value is not finite");
    if (spec_.zeros && source_.zeros[row * groups_ + g] > mask_)
      return error_text("zero point [", row, ", ", g, "] is ", int(source_.zeros[row * groups_ + g]),
                        "; it must be in 0..", mask_);
    return "";
  }

  // Row `row` of a side, [rows, columns], into its lane.
  void copy(Side side, const void* from, int64_t row, int64_t lane, PackedBlock& block) const {
    if (!has_side(spec_, side)) return;
    const int64_t size = int64_t(dtype_size(side_dtype(spec_, side))), columns = side_columns(spec_, side);
    const auto* in = static_cast<const unsigned char*>(from) + row * columns * size;
    unsigned char* const out = block.side(side).data() + lane * size;
    for (int64_t c = 0; c < columns; ++c)
      std::memcpy(out + c * cpu16::kRows * size, in + c * size, size_t(size));
  }

  const PackSpec& spec_;
  const CodeRows& source_;
  int64_t groups_, lines_;
  uint32_t mask_;
  uint32_t nan_;  // the bits of both codes of NaN; no code has those of the other kinds
  float largest_;
  std::vector<uint8_t> codes_;
};

}  // namespace

int64_t PackSpec::data_bytes_per_block() const {
  return layout == Layout::kCudaTile ? cuda_tile::block_bytes(kind, k) : cpu16::block_bytes(kind, k);
}

void pack_codes(const PackSpec& spec, const CodeRows& source, std::span<const int64_t> rows,
                BlockStore& store, ThreadPool& pool, const std::string& what) {
  const std::vector<BlockRows> blocks = group_by_block(rows, spec.n);
  FirstComplaint complaint;
  pool.parallel_for(int64_t(blocks.size()), 1, [&](int64_t begin, int64_t end) {
    CodeRowPacker packer(spec, source);
    PackedBlock block;
    for (int64_t i = begin; i < end; ++i) {
      const BlockRows& b = blocks[size_t(i)];
      prepare(spec, b, store, block);
      for (int64_t lane = 0; lane < cpu16::kRows; ++lane) {
        const int64_t row = b.source[lane];
        if (row < 0) continue;
        if (std::string wrong = packer.pack(row, lane, block); !wrong.empty())
          complaint.add(row, std::move(wrong));
      }
      store.store(b.block, block);
    }
  });
  complaint.throw_if_any(what);
}

}  // namespace llama4rt
