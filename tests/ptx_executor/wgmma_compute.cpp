// The arithmetic of wgmma.m64nNk16 for one warp. PTX ISA, "Register Fragments for wgmma": warp w of the group owns rows 16w
// to 16w+15; with group = lane / 4 and t = lane % 4, registers 4j .. 4j+3 of D hold columns 8j+2t and 8j+2t+1 of row group,
// then of row group+8. A in registers is the fragment of mma.m16n8k16.
#include <cstring>

#include "base/error.h"
#include "ptx_executor/descriptor.h"
#include "ptx_executor/matrix.h"
#include "ptx_executor/rounding.h"
#include "ptx_executor/warp.h"
#include "ptx_executor/wgmma.h"

namespace llama4rt::ptx_executor {
namespace {

constexpr int kMostColumns = 128;

// 16 elements along k of a row in shared memory.
void read_row(Warp& w, const Descriptor& d, uint32_t row, float* out) {
  SharedSpace& s = w.block->shared;
  for (uint32_t chunk = 0; chunk < 2; ++chunk) {
    const uint32_t address = chunk_address(d, row, chunk);
    uint16_t halves[8];
    std::memcpy(halves, s.at(w, 0, address, 16, 16), 16);
    if (!s.written_or_unknown(address, 16))
      w.fault(error_text("wgmma reads shared address ", address, ", which nobody has written"));
    for (uint32_t e = 0; e < 8; ++e) out[chunk * 8 + e] = from_bf16(halves[e]);
  }
}

}  // namespace

void compute(Warp& w, const WgmmaOperation& op, const WgmmaShape& shape) {
  const Unit* d = w.program->pool.data() + op.instruction->d;
  const Unit* a = d + shape.n / 2;
  const auto first_row = uint32_t(w.index % 4 * 16);
  float rows[16][kProducts], columns[kProducts][kMostColumns] = {};
  const Descriptor b = read_descriptor(op.b);
  for (int n = 0; n < shape.n; ++n) {
    float column[kProducts];
    read_row(w, b, uint32_t(n), column);
    for (int k = 0; k < kProducts; ++k) columns[k][n] = float(shape.scale_b) * column[k];
  }
  if (!shape.a_in_registers) {
    const Descriptor descriptor = read_descriptor(op.a);
    for (uint32_t r = 0; r < 16; ++r) read_row(w, descriptor, first_row + r, rows[r]);
  } else {
    for (int lane = 0; lane < kLanes; ++lane)
      for (int r = 0; r < 4; ++r)
        for (int half = 0; half < 2; ++half)
          rows[lane / 4 + r % 2 * 8][2 * (lane % 4) + r / 2 * 8 + half] =
              from_bf16(w.lanes<uint32_t>(a[r])[lane] >> (16 * half) & 0xffffu);
  }
  for (auto& row : rows)
    for (float& x : row) x *= float(shape.scale_a);

  double sums[16][kMostColumns] = {};
  const auto each = [&](auto f) {
    for (int r = 0; r < shape.n / 2; ++r) {
      float* registers = w.lanes<float>(d[r]);
      for (int lane = 0; lane < kLanes; ++lane)
        f(registers[lane], sums[lane / 4 + r / 2 % 2 * 8][r / 4 * 8 + 2 * (lane % 4) + r % 2]);
    }
  };
  if (op.accumulate) each([](float x, double& sum) { sum = double(x); });
  for (int r = 0; r < 16; ++r) {
    if (shape.n == 8) {
      for (int k = 0; k < kProducts; ++k)
        for (int n = 0; n < 8; ++n) sums[r][n] += double(rows[r][k]) * double(columns[k][n]);
    } else if (shape.n == 64) {
      for (int k = 0; k < kProducts; ++k)
        for (int n = 0; n < 64; ++n) sums[r][n] += double(rows[r][k]) * double(columns[k][n]);
    } else {
      add_products<kMostColumns>(sums[r], rows[r], columns);
    }
  }
  each([](float& x, double sum) { x = canonical(float(sum)); });
}

}  // namespace llama4rt::ptx_executor
