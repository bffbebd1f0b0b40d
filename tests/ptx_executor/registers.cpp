// setmaxnreg: registers that one warp group gives back and another takes. PTX ISA: a multiple of 8 from 24 to 256; more are
// granted when the pool of the block has them, until then the warp waits.
//
// At launch a thread has what the bound of the kernel (.maxntid, .minnctapersm) lets the assembler give it; what is left
// over is in no pool.
#include <algorithm>

#include "base/error.h"
#include "ptx_executor/block.h"
#include "ptx_executor/forms.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {
namespace {

constexpr int kRegistersOfMultiprocessor = 65536;

int registers_at_launch(const Program& p) {
  const int fits = kRegistersOfMultiprocessor / (p.min_blocks * p.max_threads);
  return std::min(255, fits) / 8 * 8;
}

int& registers_of(Warp& w) {
  std::vector<int>& all = w.block->registers_of_warp;
  if (all.empty()) all.assign(w.block->warps.size(), registers_at_launch(*w.program));
  return all[size_t(w.index)];
}

void run_fewer(Warp& w, const Instruction& i) {
  int& mine = registers_of(w);
  if (i.imm > mine) w.fault(error_text("gives registers back down to ", i.imm, " and has ", mine));
  w.block->free_registers += (mine - int(i.imm)) * kLanes;
  mine = int(i.imm);
  ++w.block->events;
}
void run_more(Warp& w, const Instruction& i) {
  int& mine = registers_of(w);
  if (i.imm < mine) w.fault(error_text("asks for ", i.imm, " registers and has ", mine));
  const int wanted = (int(i.imm) - mine) * kLanes;
  if (wanted > w.block->free_registers) {
    w.retry = true;
    return;
  }
  w.block->free_registers -= wanted;
  mine = int(i.imm);
  ++w.block->events;
}

template <void (*kRun)(Warp&, const Instruction&)>
void build(Decoder& d, Instruction& i) {
  d.operands(1);
  i.imm = int64_t(d.literal(0));
  if (i.imm < 24 || i.imm > 256 || i.imm % 8 != 0) d.refuse("registers are 24 to 256, a multiple of 8");
  if (d.program().max_threads == 0 || d.program().min_blocks == 0)
    d.refuse("a kernel without a bound on its blocks may not move registers");
  i.flow = Flow::kCollective;
  i.run = kRun;
}

}  // namespace

void add_register_forms(Forms& f) {
  f.add("setmaxnreg.dec.sync.aligned.u32", build<run_fewer>);
  f.add("setmaxnreg.inc.sync.aligned.u32", build<run_more>);
}

}  // namespace llama4rt::ptx_executor
