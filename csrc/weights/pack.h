// Quantises or converts rows of a source matrix and packs them into blocks of 16 rows (Layout::kCpu16 or
// kCudaTile), on all threads of a pool. Used by EngineWriter; it neither knows files nor decides what to
// quantise. Results and error sums do not depend on the number of threads.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/thread_pool.h"
#include "weights/weight.h"
#include "weights/weight_sides.h"

namespace llama4rt {

// One matrix of N rows and K columns in any order a checkpoint stores it: element (row, column) is at
// data + row * row_bytes + column * column_bytes, of any alignment.
struct SourceMatrix {
  const void* data = nullptr;
  DType dtype = DType::kBF16;  // F32, BF16 or F16
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t row_bytes = 0;
  int64_t column_bytes = 0;
};

// Ready codes with what gives them meaning (weight_formats.h), all row-major and contiguous.
struct CodeRows {
  const uint8_t* codes = nullptr;  // [rows, k], a code to a byte
  const void* scales = nullptr;    // [rows, groups] of the spec's scale_dtype
  const uint8_t* zeros = nullptr;  // [rows, groups], or null
  const void* offsets = nullptr;   // as scales, or null
  // Of scales and offsets that have some: [rows, side_columns()] of the spec's factor_dtype.
  const void* factors = nullptr;
  const void* offset_factors = nullptr;
  int64_t rows = 0;
};

// The shape of one packed matrix.
struct PackSpec {
  WeightKind kind = WeightKind::kBF16;
  int64_t n = 0;
  int64_t k = 0;
  int group_size = 0;
  DType scale_dtype = DType::kBF16;
  DType factor_dtype = DType::kF32;
  bool row_factors = false;
  bool zeros = false;
  bool offsets = false;
  CodeTable table = kEvenTable;
  Layout layout = Layout::kCpu16;

  int64_t num_groups() const { return group_size == 0 ? 0 : ceil_div(k, int64_t(group_size)); }
  int64_t data_bytes_per_block() const;
};

// One block of 16 stored rows in memory.
struct PackedBlock {
  std::vector<unsigned char> data;  // [lines, 64], or [tiles, 512]
  std::array<std::vector<unsigned char>, kSides.size()>
      sides;  // [columns, 16] each; empty where there is none

  std::vector<unsigned char>& side(Side which) { return sides[size_t(which)]; }
};

// Where packed blocks live. Calls come from several threads at once, for different blocks.
class BlockStore {
 public:
  virtual ~BlockStore() = default;
  // Fills `block` with what is stored at `index`; asked only for blocks of which some rows are already there.
  virtual void load(int64_t index, PackedBlock& block) = 0;
  virtual void store(int64_t index, const PackedBlock& block) = 0;
};

// The error of packing, summed over elements.
struct PackError {
  double squared = 0;         // sum of (w - value)^2
  double weight_squared = 0;  // sum of w^2
  double max_abs = 0;

  void add(const PackError& other);
  double relative_rms() const;  // 0 for an all-zero matrix
};

// Packs source row i as stored row rows[i] (in 0..n, distinct). Values past k and rows never packed stay
// zero. Throws kCheckpoint for NaN or infinity with `what` and the first position in row-major order; blocks
// already stored then hold garbage.
PackError pack_rows(const PackSpec& spec, const SourceMatrix& source, std::span<const int64_t> rows,
                    BlockStore& store, ThreadPool& pool, const std::string& what);

// The same for ready codes, bit for bit. Throws kCheckpoint for codes or zero points that the kind does not have, for
// codes, scales and offsets that are not finite, and for scales so large that values would not be, with the place of
// the first in the order of rows.
void pack_codes(const PackSpec& spec, const CodeRows& source, std::span<const int64_t> rows,
                BlockStore& store, ThreadPool& pool, const std::string& what);

// Converts source rows to bf16 (nearest even) into out + rows[i] * columns. Checks and errors as above.
PackError convert_rows_to_bf16(const SourceMatrix& source, std::span<bf16> out, ThreadPool& pool,
                               const std::string& what);

}  // namespace llama4rt
