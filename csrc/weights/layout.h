// Where weight (n, k) lies in memory. The packer, the reference and all kernels use these functions
// and nothing else.
//
// Layout::kCpu16, for the CPU and the reference. Rows go in blocks of 16, so that one 512-bit register
// (or two 256-bit ones) holds one value of 16 output rows, lane = row:
//
//   matrix  | block: rows 0..15 | block: rows 16..31 | ...      N is padded to a multiple of 16
//   block   | line 0 | line 1 | line 2 | ...                    along K, which is padded to whole lines
//   line    | row 0 | row 1 | row 2 | ... | row 15 |            64 bytes: one 32-bit word for each row
//
// A word holds the next 2 (bf16), 4 (int8, fp8) or 8 (int4, table4) values of k of its row, low bits first. fp8 lies as
// int8 does, table4 as int4 does:
//
//   bit       0       4       8       12      16      20      24      28      32
//             +-------------------------------+-------------------------------+
//   bf16      |              k0               |              k1               |
//             +---------------+---------------+---------------+---------------+
//   int8      |      k0       |      k2       |      k1       |      k3       |
//             +-------+-------+-------+-------+-------+-------+-------+-------+
//   int4      |  k0   |  k2   |  k4   |  k6   |  k1   |  k3   |  k5   |  k7   |
//             +-------+-------+-------+-------+-------+-------+-------+-------+
//
//   bf16      even k in the low half, where the shift to fp32 and AMX want it
//   int8      (word >> 8 j) & 0x00ff00ff  is the pair (k 2j, k 2j+1) as two int16, j = 0, 1
//   int4      (word >> 4 j) & 0x000f000f  is the pair (k 2j, k 2j+1) as two int16, j = 0 .. 3
//
// Padding rows have q = 0, scale 0 and offset 0. Padding in K has q = 0; its activations are zero, so its q does not
// matter. Scales, zero points and offsets: [N/16][group][16], lane = row.
//
// Layout::kCudaTile, for the tensor cores of a GPU: the left operand of m16n8k16. A *tile* is 16 rows times
// 64 (of 4 bits), 32 (of 8) or 16 (bf16) columns: 512 bytes, 16 for each of 32 lanes. So a warp reads a tile with
// one coalesced 16-byte load per lane, and every lane finds its own registers in it. Tiles follow each other
// along K, then along N. A tile consists of 4 (int4), 2 (int8) or 1 (bf16) steps of 16 columns. The lane that
// holds element (row, column) of a step, and the register r of its operand:
//
//   column    0 1   2 3   4 5   6 7   8 9  10 11 12 13 14 15
//            +-----------------------+-----------------------+
//   row 0    |  0     1     2     3  |  0     1     2     3  |      A register holds two columns: the even
//   row 1    |  4     5     6     7  |  4     5     6     7  |      one in its low half, the odd one in its
//    ...     |         r = 0         |         r = 2         |      high half.
//   row 7    | 28    29    30    31  | 28    29    30    31  |
//            +-----------------------+-----------------------+
//   row 8    |  0     1     2     3  |  0     1     2     3  |      lane = (row % 8) * 4 + column % 8 / 2
//    ...     |         r = 1         |         r = 3         |      r    = row / 8 + 2 * (column / 8)
//   row 15   | 28    29    30    31  | 28    29    30    31  |
//            +-----------------------+-----------------------+
//
// The four words of a lane's 16 bytes:
//
//             word 0         word 1         word 2         word 3
//            +--------------+--------------+--------------+--------------+
//   bf16     | r0           | r1           | r2           | r3           |   the word is the register
//   int8     | step 0: r0,r1| step 0: r2,r3| step 1: r0,r1| step 1: r2,r3|   (word >> 8 (r % 2)) & 0x00ff00ff
//   int4     | step 0: r0-r3| step 1: r0-r3| step 2: r0-r3| step 3: r0-r3|   (word >> 4 r) & 0x000f000f
//            +--------------+--------------+--------------+--------------+
//
// fp8 lies as int8 does. table4 has the words of int4, but r0 and r1 in the low half of a word, so that one instruction
// looks up four codes in the order of their registers:
//
//   bit       0       4       8       12      16      20      24      28      32
//             +-------------------------------+-------------------------------+
//   table4    | r0    | r1    | r0    | r1    | r2    | r3    | r2    | r3    |
//   column    | even  | even  | odd   | odd   | even  | even  | odd   | odd   |
//             +-------------------------------+-------------------------------+
//
// N is padded to 16 and K to a whole tile, with q = 0. Scales, zero points and offsets are those of kCpu16.
#pragma once

#include <cmath>
#include <cstdint>

#include "base/checked_math.h"
#include "weights/weight.h"
#include "weights/weight_sides.h"

namespace llama4rt::cpu16 {

inline constexpr int64_t kRows = 16;       // rows per block
inline constexpr int64_t kLineBytes = 64;  // 16 rows x 32 bits

constexpr int64_t values_per_word(WeightKind kind) { return 32 / weight_format(kind).bits; }
constexpr int64_t num_blocks(int64_t n) { return ceil_div(n, kRows); }
constexpr int64_t lines_per_block(WeightKind kind, int64_t k) { return ceil_div(k, values_per_word(kind)); }
constexpr int64_t block_bytes(WeightKind kind, int64_t k) { return lines_per_block(kind, k) * kLineBytes; }
constexpr int64_t matrix_bytes(WeightKind kind, int64_t n, int64_t k) {
  return num_blocks(n) * block_bytes(kind, k);
}
// Elements of the scale (and zero point, and offset) array of one matrix.
constexpr int64_t matrix_scales(int64_t n, int64_t k, int group_size) {
  return num_blocks(n) * kRows * ceil_div(k, int64_t(group_size));
}

// Byte offset of the 32-bit word that holds (n, k) within its matrix.
constexpr int64_t word_offset(WeightKind kind, int64_t n, int64_t k, int64_t num_k) {
  return (n / kRows) * block_bytes(kind, num_k) + (k / values_per_word(kind)) * kLineBytes + (n % kRows) * 4;
}
// Bit position of k inside its word.
constexpr int bit_offset(WeightKind kind, int64_t k) {
  const int values = int(values_per_word(kind)), j = int(k % values);
  return weight_format(kind).bits * ((j % 2) * (values / 2) + j / 2);
}
// Index of the scale of (n, group) within its matrix.
constexpr int64_t scale_index(int64_t n, int64_t group, int64_t num_groups) {
  return ((n / kRows) * num_groups + group) * kRows + n % kRows;
}

// A gate_up weight interleaves its two halves in blocks of 16 rows, so that one kernel call sees both:
// stored row block 2b is gate rows 16b.., block 2b+1 is up rows 16b... F is padded to a multiple of 16 (zero
// rows).
constexpr int64_t gate_row(int64_t f) { return (f / kRows) * 2 * kRows + f % kRows; }
constexpr int64_t up_row(int64_t f) { return gate_row(f) + kRows; }
constexpr int64_t gate_up_rows(int64_t num_f) { return 2 * round_up(num_f, kRows); }

}  // namespace llama4rt::cpu16

namespace llama4rt::cuda_tile {

inline constexpr int64_t kRows = 16;
inline constexpr int64_t kTileBytes = 512;

constexpr int64_t tile_columns(WeightKind kind) { return kTileBytes * 8 / kRows / weight_format(kind).bits; }
constexpr int64_t tiles_per_block(WeightKind kind, int64_t k) { return ceil_div(k, tile_columns(kind)); }
constexpr int64_t block_bytes(WeightKind kind, int64_t k) { return tiles_per_block(kind, k) * kTileBytes; }
constexpr int64_t matrix_bytes(WeightKind kind, int64_t n, int64_t k) {
  return ceil_div(n, kRows) * block_bytes(kind, k);
}

// The register of the m16n8k16 fragment that holds (n, k), 0..3.
constexpr int64_t fragment_register(int64_t n, int64_t k) { return n % kRows / 8 + 2 * (k % 16 / 8); }
// Registers of the operand whose values share a stored word.
constexpr int registers_per_word(WeightKind kind) { return 16 / weight_format(kind).bits; }
// Byte offset of the 32-bit word that holds (n, k) within its matrix.
constexpr int64_t word_offset(WeightKind kind, int64_t n, int64_t k, int64_t num_k) {
  const int64_t lane = n % 8 * 4 + k % 8 / 2, step = k % tile_columns(kind) / 16;
  const int64_t word = (4 * step + fragment_register(n, k)) / registers_per_word(kind);
  return n / kRows * block_bytes(kind, num_k) + k / tile_columns(kind) * kTileBytes + lane * 16 + word * 4;
}
// Bit position of (n, k) inside its word.
constexpr int bit_offset(WeightKind kind, int64_t n, int64_t k) {
  const int r = int(fragment_register(n, k)), half = int(k % 2);
  if (weight_format(kind).meaning == CodeMeaning::kTable) return 16 * (r / 2) + 8 * half + 4 * (r % 2);
  return 16 * half + weight_format(kind).bits * (r % registers_per_word(kind));
}

}  // namespace llama4rt::cuda_tile

namespace llama4rt {

// Where the stored bits of (n, k) are: byte offset of a 32-bit word within the matrix, and position in it.
struct BitPlace {
  int64_t word_offset;
  int bit;
};
constexpr BitPlace bit_place(Layout layout, WeightKind kind, int64_t n, int64_t k, int64_t num_k) {
  if (layout == Layout::kCudaTile)
    return {cuda_tile::word_offset(kind, n, k, num_k), cuda_tile::bit_offset(kind, n, k)};
  return {cpu16::word_offset(kind, n, k, num_k), cpu16::bit_offset(kind, k)};
}
constexpr int64_t matrix_bytes(Layout layout, WeightKind kind, int64_t n, int64_t k) {
  if (layout == Layout::kRowMajor) return n * k * 2;
  return layout == Layout::kCudaTile ? cuda_tile::matrix_bytes(kind, n, k) : cpu16::matrix_bytes(kind, n, k);
}

constexpr uint32_t code_mask(WeightKind kind) { return (1u << weight_format(kind).bits) - 1; }

// The number that stored bits mean before their scale: code - zero of integers.
constexpr float code_value(WeightKind kind, uint32_t bits, int zero, const CodeTable& table = kEvenTable) {
  switch (weight_format(kind).meaning) {
    case CodeMeaning::kBFloat16:
      return to_float(bf16{uint16_t(bits)});
    case CodeMeaning::kInteger:
      return float(int(bits) - zero);
    case CodeMeaning::kFloat8:
      return to_float(f8e4m3{uint8_t(bits)});
    case CodeMeaning::kTable:
      return float(table[bits]);
  }
  return 0;
}

// The nearest code from `code` downwards that means a finite number: uniform codes of a float kind, without its NaN.
inline uint32_t finite_code(WeightKind kind, uint32_t code) {
  while (!std::isfinite(code_value(kind, code, 0))) --code;
  return code;
}

// Element i of scales or offsets, without its factor.
inline float scale_number(const void* scales, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kF32:
      return static_cast<const float*>(scales)[i];
    case DType::kBF16:
      return to_float(static_cast<const bf16*>(scales)[i]);
    case DType::kF16:
      return to_float(static_cast<const fp16*>(scales)[i]);
    case DType::kI8:
      return float(static_cast<const int8_t*>(scales)[i]);
    case DType::kF8E4M3:
      return to_float(static_cast<const f8e4m3*>(scales)[i]);
    case DType::kI64:
    case DType::kI32:
    case DType::kU8:
      break;
  }
  return 0;  // no such scales: valid_scale_dtype()
}

// Raw stored bits of element (n, k) of matrix `data` (one expert).
inline uint32_t stored_bits(const Weight& w, const void* data, int64_t n, int64_t k) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  const BitPlace place = bit_place(w.layout, w.kind, n, k, w.k);
  const auto* p = bytes + place.word_offset;
  const uint32_t word = uint32_t(p[0]) | uint32_t(p[1]) << 8 | uint32_t(p[2]) << 16 | uint32_t(p[3]) << 24;
  return (word >> place.bit) & code_mask(w.kind);
}

// The view of expert e of a stack.
inline Weight expert_view(const Weight& w, int64_t e) {
  Weight one = w;
  one.num_experts = 1;
  const int64_t bytes = matrix_bytes(w.layout, w.kind, w.n, w.k);
  one.data = static_cast<const char*>(w.data) + e * bytes;
  for (const SideFormat& format : kSides)
    if (has_side(w, format.side)) {
      const int64_t matrix = cpu16::num_blocks(w.n) * side_block_bytes(w, format.side);
      set_side(one, format.side, static_cast<const char*>(side_data(w, format.side)) + e * matrix);
    }
  return one;
}

// The scale, and the offset, of a group of row n of a single matrix.
inline float group_number(const Weight& w, const void* numbers, const void* factors, int64_t n,
                          int64_t group) {
  const float number = scale_number(numbers, w.scale_dtype, cpu16::scale_index(n, group, w.num_groups()));
  if (!factors) return number;
  const int64_t columns = side_columns(w, Side::kFactors);
  return number *
         scale_number(factors, w.factor_dtype, cpu16::scale_index(n, factor_column(w, group), columns));
}
inline float group_scale(const Weight& w, int64_t n, int64_t group) {
  return group_number(w, w.scales, w.factors, n, group);
}
inline float group_offset(const Weight& w, int64_t n, int64_t group) {
  return group_number(w, w.offsets, w.offset_factors, n, group);
}
inline int group_zero(const Weight& w, int64_t n, int64_t group) {
  return w.zeros ? int(w.zeros[cpu16::scale_index(n, group, w.num_groups())]) : w.implied_zero();
}

// The value of element (n, k) of a single matrix, exactly as every device means it. Slow: for reference and
// tests.
inline float weight_value(const Weight& w, int64_t n, int64_t k) {
  if (w.layout == Layout::kRowMajor) return to_float(static_cast<const bf16*>(w.data)[n * w.k + k]);
  const uint32_t bits = stored_bits(w, w.data, n, k);
  if (!w.quantized()) return code_value(w.kind, bits, 0);
  const int64_t group = k / w.group_size;
  const float product = code_value(w.kind, bits, group_zero(w, n, group), w.table) * group_scale(w, n, group);
  return w.offsets ? product + group_offset(w, n, group) : product;
}

}  // namespace llama4rt
