// Where a thread goes on, and what concerns the whole grid.
#include "ptx_executor/forms.h"
#include "ptx_executor/grid.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {
namespace {

void build_branch(Decoder& d, Instruction& i) {
  d.operands(1);
  i.target = d.label(0);
  i.flow = Flow::kBranch;
}
// imm: all lanes that come here go the same way; the compiler says so, and is held to it.
void build_uniform_branch(Decoder& d, Instruction& i) {
  build_branch(d, i);
  i.imm = 1;
}
void build_exit(Decoder& d, Instruction& i) {
  d.operands(0);
  i.flow = Flow::kExit;
}

void run_trap(Warp& w, const Instruction&) { w.fault("trap: the code for another architecture was reached"); }
void build_trap(Decoder& d, Instruction& i) {
  d.operands(0);
  i.run = run_trap;
}

// PTX ISA, "griddepcontrol": until the grids before are done and what they wrote can be seen.
void run_wait(Warp& w, const Instruction&) {
  if (w.block->grid->before) {
    w.retry = true;
    return;
  }
  w.waited |= w.mask;
}
void build_wait(Decoder& d, Instruction& i) {
  d.operands(0);
  i.run = run_wait;
}
void run_launch_dependents(Warp& w, const Instruction&) {
  w.block->has_triggered = true;
  ++w.block->events;
  // Its turn ends here, or a short kernel would be through before the next one can start.
  w.yields = simt::options().order == simt::Order::kDescending && !w.block->grid->is_last;
}
void build_launch_dependents(Decoder& d, Instruction& i) {
  d.operands(0);
  i.run = run_launch_dependents;
}

}  // namespace

void add_control_forms(Forms& f) {
  f.add("bra", build_branch);
  f.add("bra.uni", build_uniform_branch);
  f.add("ret", build_exit);
  f.add("exit", build_exit);
  f.add("trap", build_trap);
  f.add("griddepcontrol.wait", build_wait);
  f.add("griddepcontrol.launch_dependents", build_launch_dependents);
}

}  // namespace llama4rt::ptx_executor
