// Matrices in the registers of a warp. PTX ISA, "ldmatrix" and "Matrix Fragments for mma.m16n8k16": with group = lane / 4
// and t = lane % 4 a lane holds, of
//   an 8x8 matrix of 16 bits   row group, columns 2t and 2t+1
//   A (16x16)   registers 0..3: rows group, group+8, group, group+8; columns 2t.., 2t.., 2t+8.., 2t+8..
//   B (16x8)    registers 0..1: column group; rows 2t.., 2t+8..
//   C, D (16x8) registers 0..3: rows group, group, group+8, group+8; columns 2t, 2t+1, 2t, 2t+1
// Products are exact; a sum of 16 and what was there is rounded once. Hardware cuts off somewhere else.
#include "ptx_executor/matrix.h"

#include <cstring>

#include "ptx_executor/block.h"
#include "ptx_executor/forms.h"
#include "ptx_executor/rounding.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {
namespace {

// imm: offset; pool: destinations. Lanes 8m .. 8m+7 give the addresses of matrix m's rows.
template <bool kTransposed>
void run_ldmatrix(Warp& w, const Instruction& i) {
  SharedSpace& s = w.block->shared;
  const uint32_t* addresses = w.lanes<uint32_t>(i.a);
  const Unit* destinations = w.program->pool.data() + i.d;
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t elements[8][8];
    bool holds[8][8];
    for (int row = 0; row < 8; ++row) {
      const int from = 8 * matrix + row;
      const uint32_t address = addresses[from] + uint32_t(i.imm);
      std::memcpy(elements[row], s.at(w, from, address, 16, 16), 16);
      if (w.block->order) w.block->order->read_shared(w, from, address, 16);
      const bool all = s.written_or_unknown(address, 16);
      for (int column = 0; column < 8; ++column)
        holds[row][column] = all || s.written_or_unknown(address + uint32_t(2 * column), 2);
    }
    const Unit d = destinations[matrix];
    w.defined[d] = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      const int group = lane / 4, t = lane % 4;
      uint32_t value = 0;
      bool defined = true;
      for (int half = 0; half < 2; ++half) {
        const int row = kTransposed ? 2 * t + half : group, column = kTransposed ? group : 2 * t + half;
        value |= uint32_t(elements[row][column]) << (16 * half);
        defined = defined && holds[row][column];
      }
      w.lanes<uint32_t>(d)[lane] = value;
      w.defined[d] |= uint32_t(defined) << lane;
    }
  }
}
template <bool kTransposed>
void build_ldmatrix(Decoder& d, Instruction& i) {
  d.operands(2);
  i.a = d.shared_address(1, i.imm);
  std::vector<Unit> destinations;
  for (const Operand& o : d.vector(0, 4)) destinations.push_back(d.destination(o, kB32));
  i.d = d.put(destinations);
  i.sets_defined = true;
  i.flow = Flow::kCollective;
  i.run = run_ldmatrix<kTransposed>;
}

// pool: D, A, B, C.
void run_mma(Warp& w, const Instruction& i) {
  const Unit* pool = w.program->pool.data() + i.d;
  const Unit *d = pool, *a = pool + 4, *b = pool + 8, *c = pool + 10;
  float rows[16][16], columns[16][8];
  double sums[16][8];
  const auto pair = [](uint32_t word, int half) { return from_bf16(word >> (16 * half) & 0xffffu); };
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; ++r)
      for (int half = 0; half < 2; ++half)
        rows[group + r % 2 * 8][2 * t + r / 2 * 8 + half] = pair(w.lanes<uint32_t>(a[r])[lane], half);
    for (int r = 0; r < 2; ++r)
      for (int half = 0; half < 2; ++half)
        columns[2 * t + 8 * r + half][group] = pair(w.lanes<uint32_t>(b[r])[lane], half);
    for (int r = 0; r < 4; ++r) sums[group + r / 2 * 8][2 * t + r % 2] = double(w.lanes<float>(c[r])[lane]);
  }
  for (int row = 0; row < 16; ++row) add_products<8>(sums[row], rows[row], columns);
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; ++r)
      w.lanes<float>(d[r])[lane] = canonical(float(sums[group + r / 2 * 8][2 * t + r % 2]));
  }
}
void build_mma(Decoder& d, Instruction& i) {
  d.operands(4);
  std::vector<Unit> pool;
  for (const Operand& o : d.vector(0, 4)) pool.push_back(d.destination(o, kF32));
  for (const Operand& o : d.vector(1, 4)) pool.push_back(d.source(o, kB32));
  for (const Operand& o : d.vector(2, 2)) pool.push_back(d.source(o, kB32));
  for (const Operand& o : d.vector(3, 4)) pool.push_back(d.source(o, kF32));
  i.d = d.put(pool);
  i.flow = Flow::kCollective;
  i.run = run_mma;
}

}  // namespace

void add_matrix_forms(Forms& f) {
  f.add("ldmatrix.sync.aligned.m8n8.x4.shared.b16", build_ldmatrix<false>);
  f.add("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16", build_ldmatrix<true>);
  f.add("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", build_mma);
}

}  // namespace llama4rt::ptx_executor
