#include "weights/pack.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <unordered_map>
#include <vector>

#include "test.h"
#include "weights/layout.h"
#include "weights/quantize.h"
#include "weights/sample_weights.h"

namespace llama4rt::test {
namespace {

// One packed matrix in memory.
class MemoryBlocks : public BlockStore {
 public:
  explicit MemoryBlocks(const PackSpec& spec) : spec_(spec), blocks_(size_t(cpu16::num_blocks(spec.n))) {
    for (PackedBlock& b : blocks_) {
      b.data.assign(size_t(spec.data_bytes_per_block()), 0);
      for (const SideFormat& format : kSides)
        b.side(format.side).assign(size_t(side_block_bytes(spec, format.side)), 0);
    }
  }
  void load(int64_t index, PackedBlock& block) override { block = blocks_[size_t(index)]; }
  void store(int64_t index, const PackedBlock& block) override { blocks_[size_t(index)] = block; }

  // The matrix as ops see it. Valid until the next call.
  Weight weight() {
    data_.clear();
    for (auto& side : sides_) side.clear();
    for (const PackedBlock& b : blocks_) {
      data_.insert(data_.end(), b.data.begin(), b.data.end());
      for (size_t i = 0; i < sides_.size(); ++i)
        sides_[i].insert(sides_[i].end(), b.sides[i].begin(), b.sides[i].end());
    }
    Weight w = weight_shape(spec_.kind, 1, spec_.n, spec_.k, spec_.group_size, spec_.scale_dtype);
    w.layout = spec_.layout;
    w.factor_dtype = spec_.factor_dtype;
    w.row_factors = spec_.row_factors;
    w.data = data_.data();
    for (const SideFormat& format : kSides)
      if (has_side(spec_, format.side)) set_side(w, format.side, sides_[size_t(format.side)].data());
    w.table = spec_.table;
    return w;
  }
  const std::vector<unsigned char>& data() const { return data_; }

 private:
  PackSpec spec_;
  std::vector<PackedBlock> blocks_;
  std::vector<unsigned char> data_;
  std::array<std::vector<unsigned char>, kSides.size()> sides_;
};

PackSpec spec_of(WeightKind kind, int64_t n, int64_t k, int group = 32, DType scales = DType::kBF16) {
  return {.kind = kind,
          .n = n,
          .k = k,
          .group_size = kind == WeightKind::kBF16 ? 0 : group,
          .scale_dtype = scales};
}

// Those that values are quantised to.
std::vector<WeightKind> kinds_of_values() {
  std::vector<WeightKind> kinds;
  for (const WeightFormat& format : kWeightFormats)
    if (format.from_values) kinds.push_back(format.kind);
  return kinds;
}

// Bytes of the values in a dtype, row-major or transposed, with some padding between lines.
struct EncodedSource {
  std::vector<unsigned char> bytes;
  SourceMatrix matrix;
};

uint16_t to_half(float x) {  // for values that halves hold exactly
  static const std::unordered_map<uint32_t, uint16_t> halves = [] {
    std::unordered_map<uint32_t, uint16_t> map;
    for (uint32_t bits = 0; bits < 0x10000; ++bits)
      map.emplace(std::bit_cast<uint32_t>(to_float(fp16{uint16_t(bits)})), uint16_t(bits));
    return map;
  }();
  return halves.at(std::bit_cast<uint32_t>(x));
}

EncodedSource encode(const std::vector<float>& values, int64_t rows, int64_t columns, DType dtype,
                     bool transposed) {
  EncodedSource out;
  const int64_t size = int64_t(dtype_size(dtype));
  const int64_t line = ((transposed ? rows : columns) + 3) * size + 1;  // odd: nothing is aligned
  out.bytes.resize(size_t((transposed ? columns : rows) * line));
  out.matrix = {out.bytes.data(), dtype, rows, columns, transposed ? size : line, transposed ? line : size};
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      unsigned char* p = out.bytes.data() + r * out.matrix.row_bytes + c * out.matrix.column_bytes;
      const float v = values[size_t(r * columns + c)];
      if (dtype == DType::kF32) {
        std::memcpy(p, &v, 4);
      } else {
        const uint16_t bits = dtype == DType::kBF16 ? to_bf16(v).bits : to_half(v);
        std::memcpy(p, &bits, 2);
      }
    }
  }
  return out;
}

}  // namespace

TEST(int4_golden_line) {
  // Sixteen rows, one line: row r holds codes (k + r) % 16 for k = 0..7.
  PackSpec spec = spec_of(WeightKind::kInt4, 16, 8);
  MemoryBlocks blocks(spec);
  std::vector<uint8_t> codes(16 * 8);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = uint8_t((i % 8 + i / 8) % 16);
  const std::vector<uint16_t> scales(16, 0x3f80);
  ThreadPool pool(1);
  pack_codes(spec, {.codes = codes.data(), .scales = scales.data(), .rows = 16}, row_range(0, 16), blocks,
             pool, "w");
  blocks.weight();
  const std::vector<unsigned char> row0 = {0x20, 0x64, 0x31, 0x75};  // nibbles k0 k2 k4 k6 k1 k3 k5 k7
  const std::vector<unsigned char> row1 = {0x31, 0x75, 0x42, 0x86};
  CHECK_EQ(blocks.data().size(), size_t(64));
  CHECK(std::equal(row0.begin(), row0.end(), blocks.data().begin()));
  CHECK(std::equal(row1.begin(), row1.end(), blocks.data().begin() + 4));
}

namespace {

// Random codes of a spec, with what gives them meaning.
struct RandomCodes {
  std::vector<uint8_t> codes, zeros;
  std::vector<float> scales, offsets;
  CodeRows view;

  RandomCodes(const PackSpec& spec, std::mt19937& random)
      : codes(size_t(spec.n * spec.k)),
        zeros(size_t(spec.n * spec.num_groups())),
        scales(zeros.size()),
        offsets(zeros.size()) {
    const uint32_t mask = code_mask(spec.kind);
    for (auto& q : codes) q = uint8_t(finite_code(spec.kind, uint32_t(random()) & mask));
    for (auto& z : zeros) z = uint8_t(random() & mask);
    for (auto& s : scales) s = (float(random() % 1000) - 300) * 0.001f;
    for (auto& o : offsets) o = (float(random() % 1000) - 700) * 0.003f;
    view = {.codes = codes.data(),
            .scales = scales.data(),
            .zeros = spec.zeros ? zeros.data() : nullptr,
            .offsets = spec.offsets ? offsets.data() : nullptr,
            .rows = spec.n};
  }
};

// Every scaled kind with all it may have, with fp32 scales.
std::vector<PackSpec> code_specs(int64_t n, int64_t k, int group) {
  std::vector<PackSpec> specs;
  for (const WeightFormat& format : kWeightFormats)
    for (const bool zeros : {false, true})
      for (const bool offsets : {false, true}) {
        if (!format.is_scaled || (zeros && !format.may_have_zeros) || (offsets && !format.may_have_offsets))
          continue;
        PackSpec spec = spec_of(format.kind, n, k, group, DType::kF32);
        spec.zeros = zeros;
        spec.offsets = offsets;
        spec.table = {-128, 127, 0, 3, -7, 15, 31, 63, 100, -100, 1, -1, 64, -64, 90, -90};
        specs.push_back(spec);
      }
  return specs;
}

}  // namespace

// Against the definition in weight_formats.h, spelled out.
TEST(codes_come_back_through_the_layout) {
  std::mt19937 random(3);
  ThreadPool pool(2);
  for (const auto& [n, k, group] : std::vector<std::array<int64_t, 3>>{
           {1, 1, 32}, {16, 128, 128}, {17, 129, 64}, {40, 200, 16}, {3, 333, 128}})
    for (PackSpec spec : code_specs(n, k, int(group)))
      for (const Layout layout : {Layout::kCpu16, Layout::kCudaTile}) {
        SCOPE(weight_kind_name(spec.kind), " [", n, ", ", k, "], group ", group, spec.zeros ? ", zeros" : "",
              spec.offsets ? ", offsets" : "", ", ", layout_name(layout));
        spec.layout = layout;
        const RandomCodes source(spec, random);
        std::vector<int64_t> rows = row_range(0, n);
        std::shuffle(rows.begin(), rows.end(), random);
        MemoryBlocks blocks(spec);
        pack_codes(spec, source.view, rows, blocks, pool, "w");
        const Weight w = blocks.weight();
        int wrong = 0;
        for (int64_t r = 0; r < n; ++r)
          for (int64_t c = 0; c < k; ++c) {
            const uint8_t code = source.codes[size_t(r * k + c)];
            const size_t g = size_t(r * spec.num_groups() + c / group);
            const int zero = spec.zeros                       ? source.zeros[g]
                             : spec.offsets                   ? 0
                             : spec.kind == WeightKind::kInt4 ? 8
                             : spec.kind == WeightKind::kInt8 ? 128
                                                              : 0;
            float number = float(int(code) - zero);
            if (spec.kind == WeightKind::kFp8) number = to_float(f8e4m3{code});
            if (spec.kind == WeightKind::kTable4) number = float(spec.table[code]);
            number *= source.scales[g];
            if (spec.offsets) number += source.offsets[g];
            wrong += stored_bits(w, w.data, rows[size_t(r)], c) != code;
            wrong += weight_value(w, rows[size_t(r)], c) != number;
          }
        CHECK_EQ(wrong, 0);
      }
}

// Every element has its own bits in both layouts, inside the bytes of the matrix.
TEST(layouts_give_each_element_its_own_bits) {
  for (const Layout layout : {Layout::kCpu16, Layout::kCudaTile})
    for (const WeightFormat& format : kWeightFormats) {
      SCOPE(layout_name(layout), ", ", format.name);
      const WeightKind kind = format.kind;
      const int64_t n = 33, k = 130;
      const int bits = format.bits;
      std::vector<int> owners(size_t(matrix_bytes(layout, kind, n, k) * 8 / bits), 0);
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < k; ++j) {
          const BitPlace place = bit_place(layout, kind, i, j, k);
          CHECK(place.word_offset % 4 == 0 && place.bit % bits == 0 && place.bit < 32);
          const size_t at = size_t((place.word_offset * 8 + place.bit) / bits);
          CHECK(at < owners.size() && ++owners.at(at) == 1);
        }
    }
}

// The same matrix packed for the CPU and for CUDA has the same values, also when rows arrive in two pieces.
TEST(tiles_for_cuda_hold_the_same_values) {
  std::mt19937 rng(8);
  std::normal_distribution<float> normal;
  ThreadPool pool(2);
  for (const WeightKind kind : kinds_of_values())
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{16, 64}, {1, 1}, {37, 130}, {50, 321}}) {
      SCOPE(weight_kind_name(kind), " ", n, " x ", k);
      std::vector<float> values(size_t(n * k));
      for (float& v : values) v = to_float(to_bf16(normal(rng)));
      const EncodedSource source = encode(values, n, k, DType::kBF16, false);
      PackSpec spec = spec_of(kind, n, k, 64);
      MemoryBlocks for_cpu(spec);
      pack_rows(spec, source.matrix, row_range(0, n), for_cpu, pool, "w");
      spec.layout = Layout::kCudaTile;
      MemoryBlocks for_cuda(spec);
      const int64_t half = n / 2;
      for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, half}, {half, n - half}}) {
        SourceMatrix piece = source.matrix;
        piece.data = static_cast<const char*>(piece.data) + first * piece.row_bytes;
        piece.rows = count;
        pack_rows(spec, piece, row_range(first, first + count), for_cuda, pool, "w");
      }
      const Weight a = for_cpu.weight(), b = for_cuda.weight();
      CHECK_EQ(int64_t(for_cuda.data().size()), matrix_bytes(Layout::kCudaTile, kind, n, k));
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < k; ++j) CHECK_EQ(weight_value(a, i, j), weight_value(b, i, j));
    }
}

// What a lane finds in its 16 bytes of an int4 tile: step s in word s, and in it, by four bits each, (row g,
// column 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8), then the same of the odd columns.
TEST(int4_tile_golden_lane) {
  const int64_t lane = 5 * 4 + 3;  // g = 5, t = 3
  const int64_t rows[] = {5, 13, 5, 13}, columns[] = {6, 6, 14, 14};
  for (int64_t step = 0; step < 4; ++step)
    for (int i = 0; i < 8; ++i) {
      const BitPlace place = bit_place(Layout::kCudaTile, WeightKind::kInt4, 16 + rows[i % 4],
                                       64 + step * 16 + columns[i % 4] + i / 4, 128);
      CHECK_EQ(place.word_offset, (2 + 1) * 512 + lane * 16 + step * 4);  // row block 1, tile 1 of 2
      CHECK_EQ(place.bit, 4 * i);
    }
}

TEST(rows_are_quantised_alike_from_every_source_and_thread_count) {
  constexpr int64_t kRows = 75, kColumns = 203;
  std::vector<float> values = gaussian(size_t(kRows * kColumns), 11, 1.0f);
  for (float& v : values) v = std::round(v * 64) / 64;  // exact in bf16 (mostly) and fp16
  for (float& v : values) v = to_float(to_bf16(v));
  const std::vector<int64_t> rows = row_range(0, kRows);
  for (const WeightKind kind : kinds_of_values()) {
    const PackSpec spec = spec_of(kind, kRows, kColumns, 64);
    MemoryBlocks expected(spec);
    ThreadPool one(1), three(3);
    const PackError error = pack_rows(spec, source_of(values, kRows, kColumns), rows, expected, one, "w");
    const Weight w = expected.weight();
    double squared = 0, weight_squared = 0;
    for (int64_t r = 0; r < kRows; ++r)
      for (int64_t c = 0; c < kColumns; ++c) {
        const double v = double(values[size_t(r * kColumns + c)]);
        const double e = v - double(weight_value(w, r, c));
        squared += e * e;
        weight_squared += v * v;
      }
    CHECK_CLOSE(error.relative_rms(), std::sqrt(squared / weight_squared), 1e-5);
    CHECK(kind != WeightKind::kBF16 || error.squared == 0);

    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const bool transposed : {false, true}) {
        SCOPE(weight_kind_name(kind), " from ", dtype_name(dtype), transposed ? " transposed" : "");
        const EncodedSource source = encode(values, kRows, kColumns, dtype, transposed);
        MemoryBlocks blocks(spec);
        const PackError again = pack_rows(spec, source.matrix, rows, blocks, three, "w");
        blocks.weight();
        CHECK(blocks.data() == expected.data());
        CHECK_EQ(again.squared, error.squared);
        CHECK_EQ(again.max_abs, error.max_abs);
      }
    }
  }
}

TEST(rows_may_arrive_in_any_pieces) {
  constexpr int64_t kWidth = 37, kColumns = 64, kStored = cpu16::gate_up_rows(kWidth);
  const std::vector<float> gate = gaussian(size_t(kWidth * kColumns), 1),
                           up = gaussian(size_t(kWidth * kColumns), 2);
  const PackSpec spec = spec_of(WeightKind::kInt4, kStored, kColumns);
  ThreadPool pool(2);
  std::vector<int64_t> gate_rows, up_rows;
  for (int64_t f = 0; f < kWidth; ++f) {
    gate_rows.push_back(cpu16::gate_row(f));
    up_rows.push_back(cpu16::up_row(f));
  }
  MemoryBlocks whole(spec), pieces(spec);
  pack_rows(spec, source_of(gate, kWidth, kColumns), gate_rows, whole, pool, "w");
  pack_rows(spec, source_of(up, kWidth, kColumns), up_rows, whole, pool, "w");
  for (int64_t f = kWidth; f-- > 0;) {  // one row at a time, backwards
    const SourceMatrix g{&gate[size_t(f * kColumns)], DType::kF32, 1, kColumns, kColumns * 4, 4};
    const SourceMatrix u{&up[size_t(f * kColumns)], DType::kF32, 1, kColumns, kColumns * 4, 4};
    pack_rows(spec, u, std::span(&up_rows[size_t(f)], 1), pieces, pool, "w");
    pack_rows(spec, g, std::span(&gate_rows[size_t(f)], 1), pieces, pool, "w");
  }
  const Weight w = whole.weight();
  pieces.weight();
  CHECK(whole.data() == pieces.data());
  for (int64_t c = 0; c < kColumns; ++c) {  // padding rows are zero
    CHECK_EQ(weight_value(w, cpu16::gate_row(kWidth), c), 0.0f);
    CHECK_EQ(weight_value(w, cpu16::up_row(47), c), 0.0f);
  }
  double worst = 0;
  for (int64_t f = 0; f < kWidth; ++f)
    for (int64_t c = 0; c < kColumns; ++c)
      worst = std::max(
          worst, double(std::fabs(weight_value(w, cpu16::up_row(f), c) - up[size_t(f * kColumns + c)])));
  CHECK(worst < 0.05);  // sigma is 0.05
}

TEST(values_that_are_not_finite_are_named) {
  const float kNaN = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();
  std::vector<float> values = gaussian(40 * 50, 4);
  values[33 * 50 + 7] = kInf;
  values[21 * 50 + 49] = kNaN;
  values[39 * 50] = kNaN;
  ThreadPool pool(3);
  for (const bool transposed : {false, true}) {
    const EncodedSource source = encode(values, 40, 50, DType::kBF16, transposed);
    const PackSpec spec = spec_of(WeightKind::kInt4, 40, 50);
    MemoryBlocks blocks(spec);
    std::string message;
    try {
      pack_rows(spec, source.matrix, row_range(0, 40), blocks, pool, "layers.3.attn.o");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::kCheckpoint);
      message = error.what();
    }
    CHECK_EQ(message, "layers.3.attn.o: element [21, 49] is NaN; weights must be finite");
  }
  std::vector<float> large(16 * 8, 3.4e38f);  // finite, but rounds to infinity in bf16
  const PackSpec spec = spec_of(WeightKind::kBF16, 16, 8);
  MemoryBlocks blocks(spec);
  CHECK_THROWS(kCheckpoint, pack_rows(spec, source_of(large, 16, 8), row_range(0, 16), blocks, pool, "w"));
}

// Of a number that a half has exactly, and that is normal or zero there.
fp16 half_of(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (value == 0) return {0};
  return {uint16_t((bits >> 16 & 0x8000) | ((bits >> 23 & 0xff) - 112) << 10 | (bits >> 13 & 0x3ff))};
}

// How the scales of a test are stored.
struct ScaleForm {
  DType dtype, factor_dtype = DType::kF32;
  bool row_factors = false;
};

// Scales and offsets of every type, with factors where they have some.
TEST(scales_of_every_type_come_back) {
  std::mt19937 random(6);
  ThreadPool pool(2);
  constexpr int64_t kN = 21, kK = 600;  // three columns of factors
  const auto real = [&] { return (float(random() % 1000) - 400) * 0x1p-9f; };
  for (const auto& [dtype, factor_dtype, row_factors] : {ScaleForm{DType::kBF16},
                                                         {DType::kF16},
                                                         {DType::kI8},
                                                         {DType::kF8E4M3},
                                                         {DType::kI8, DType::kF16},
                                                         {DType::kF8E4M3, DType::kF32, true},
                                                         {DType::kI8, DType::kF16, true}})
    for (const int group : {16, 32, 128}) {
      SCOPE(dtype_name(dtype), ", factors ", dtype_name(factor_dtype), row_factors ? " of rows" : "",
            ", group ", group);
      PackSpec spec = spec_of(WeightKind::kInt4, kN, kK, group, dtype);
      spec.offsets = true;
      spec.factor_dtype = factor_dtype;
      spec.row_factors = row_factors;
      const size_t columns = row_factors ? 1 : 3, factor_size = dtype_size(factor_dtype);
      const size_t count = size_t(kN * spec.num_groups()), size = dtype_size(dtype);
      const std::vector<uint8_t> codes(size_t(kN * kK), 7);
      std::vector<unsigned char> scales(count * size), offsets(count * size);
      std::vector<float> factors(size_t(kN) * columns), offset_factors(factors.size());
      for (auto* bytes : {&scales, &offsets})
        for (unsigned char& byte : *bytes) byte = uint8_t(random() % 0x70);  // no type has a NaN there
      for (float& f : factors) f = real();
      for (float& f : offset_factors) f = real();
      const bool factored = has_factors(dtype);
      const auto stored = [&](const std::vector<float>& numbers) {
        std::vector<unsigned char> bytes(numbers.size() * factor_size);
        for (size_t i = 0; i < numbers.size(); ++i) {
          const fp16 half = half_of(numbers[i]);
          const void* from = factor_dtype == DType::kF16 ? static_cast<const void*>(&half) : &numbers[i];
          std::memcpy(&bytes[i * factor_size], from, factor_size);
        }
        return bytes;
      };
      std::vector<unsigned char> stored_factors = stored(factors);
      const std::vector<unsigned char> stored_offset_factors = stored(offset_factors);
      MemoryBlocks blocks(spec);
      pack_codes(spec,
                 {.codes = codes.data(),
                  .scales = scales.data(),
                  .offsets = offsets.data(),
                  .factors = factored ? stored_factors.data() : nullptr,
                  .offset_factors = factored ? stored_offset_factors.data() : nullptr,
                  .rows = kN},
                 row_range(0, kN), blocks, pool, "w");
      const Weight w = blocks.weight();
      const auto number = [&](const std::vector<unsigned char>& bytes, const std::vector<float>& of, size_t i,
                              size_t factor) {
        uint16_t half;
        std::memcpy(&half, &bytes[i * size], size);
        const float wide = dtype == DType::kBF16  ? to_float(bf16{half})
                           : dtype == DType::kF16 ? to_float(fp16{half})
                           : dtype == DType::kI8  ? float(int8_t(bytes[i]))
                                                  : to_float(f8e4m3{bytes[i]});
        return factored ? wide * of[factor] : wide;
      };
      int wrong = 0;
      for (int64_t n = 0; n < kN; ++n)
        for (int64_t c = 0; c < kK; ++c) {
          const size_t i = size_t(n * spec.num_groups() + c / group);
          const size_t factor = size_t(n) * columns + (row_factors ? 0 : size_t(c / 256));
          const float product = 7.0f * number(scales, factors, i, factor);
          wrong += weight_value(w, n, c) != product + number(offsets, offset_factors, i, factor);
        }
      CHECK_EQ(wrong, 0);
      if (!factored) continue;
      const uint32_t infinity = factor_dtype == DType::kF16 ? 0x7c00 : 0x7f800000;
      std::memcpy(&stored_factors[(5 * columns + columns / 2) * factor_size], &infinity, factor_size);
      MemoryBlocks again(spec);
      CHECK_THROWS(kCheckpoint, pack_codes(spec,
                                           {.codes = codes.data(),
                                            .scales = scales.data(),
                                            .offsets = offsets.data(),
                                            .factors = stored_factors.data(),
                                            .offset_factors = stored_offset_factors.data(),
                                            .rows = kN},
                                           row_range(0, kN), again, pool, "w"));
    }
}

// The place of the first bad row is named, whichever thread finds which.
TEST(codes_that_mean_no_finite_number_are_named) {
  std::mt19937 random(5);
  ThreadPool pool(3);
  const float kNaN = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();
  for (const PackSpec& spec : code_specs(40, 96, 32)) {
    SCOPE(weight_kind_name(spec.kind), spec.zeros ? ", zeros" : "", spec.offsets ? ", offsets" : "");
    const RandomCodes good(spec, random);
    const auto complaint = [&](const auto& damage) -> std::string {
      RandomCodes bad = good;
      bad.view.codes = bad.codes.data();
      bad.view.scales = bad.scales.data();
      if (spec.zeros) bad.view.zeros = bad.zeros.data();
      if (spec.offsets) bad.view.offsets = bad.offsets.data();
      damage(bad);
      MemoryBlocks blocks(spec);
      try {
        pack_codes(spec, bad.view, row_range(0, 40), blocks, pool, "layers.3.attn.o");
      } catch (const Error& error) {
        CHECK(error.kind() == ErrorKind::kCheckpoint);
        return error.what();
      }
      return "";
    };
    CHECK_EQ(complaint([](RandomCodes&) {}), "");
    CHECK_EQ(complaint([&](RandomCodes& c) { c.scales[33 * 3] = kNaN, c.scales[21 * 3 + 2] = kInf; }),
             "layers.3.attn.o: scale [21, 2] is inf; it must be finite");
    CHECK_EQ(complaint([&](RandomCodes& c) { c.scales[5 * 3 + 1] = -3e38f; }),
             "layers.3.attn.o: scale [5, 1] is -3e+38; its largest value is not finite");
    if (spec.offsets)
      CHECK_EQ(complaint([&](RandomCodes& c) { c.offsets[39 * 3 + 2] = kNaN; }),
               "layers.3.attn.o: offset [39, 2] is nan; it must be finite");
    if (weight_format(spec.kind).bits == 4)
      CHECK_EQ(
          complaint([&](RandomCodes& c) { c.codes[7 * 96 + 95] = 16; }),
          error_text("layers.3.attn.o: code [7, 95] is 16; ", weight_kind_name(spec.kind), " has 0..15"));
    if (spec.zeros && weight_format(spec.kind).bits == 4)
      CHECK_EQ(complaint([&](RandomCodes& c) { c.zeros[11 * 3] = 16; }),
               "layers.3.attn.o: zero point [11, 0] is 16; it must be in 0..15");
    if (spec.kind != WeightKind::kFp8) continue;
    for (const uint8_t code : {uint8_t(0x7f), uint8_t(0xff)})
      CHECK_EQ(complaint([&](RandomCodes& c) { c.codes[30 * 96] = c.codes[2 * 96 + 64] = code; }),
               "layers.3.attn.o: code [2, 64] is NaN; weights must be finite");
  }
}

TEST(conversion_to_bf16_rounds_to_even) {
  ThreadPool pool(2);
  const std::vector<float> values = {1.0f, 1.00390625f, 1.01171875f, -2.5f, 0.0f, -0.0f};
  std::vector<bf16> out(6);
  convert_rows_to_bf16(source_of(values, 2, 3), out, pool, "w");
  const std::vector<uint16_t> expected = {0x3f80, 0x3f80, 0x3f82, 0xc020, 0x0000, 0x8000};
  for (size_t i = 0; i < out.size(); ++i) CHECK_EQ(out[i].bits, expected[i]);
}

TEST(every_half_converts_exactly) {
  std::vector<uint16_t> bits;
  for (uint32_t b = 0; b < 0x10000; ++b)
    if ((b & 0x7c00) != 0x7c00) bits.push_back(uint16_t(b));
  const int64_t count = int64_t(bits.size());
  const SourceMatrix source{bits.data(), DType::kF16, 1, count, count * 2, 2};
  const PackSpec spec = spec_of(WeightKind::kBF16, 1, count);
  MemoryBlocks blocks(spec);
  ThreadPool pool(1);
  pack_rows(spec, source, row_range(0, 1), blocks, pool, "w");
  const Weight w = blocks.weight();
  int wrong = 0;
  for (int64_t i = 0; i < count; ++i)
    wrong += weight_value(w, 0, i) != to_float(to_bf16(to_float(fp16{bits[size_t(i)]})));
  CHECK_EQ(wrong, 0);
}

}  // namespace llama4rt::test
