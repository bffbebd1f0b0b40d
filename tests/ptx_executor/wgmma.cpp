// wgmma: asynchronous matrix products of four warps. PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions":
//   wgmma.fence         orders registers written before against the products behind it
//   wgmma.mma_async     d (+)= a * b, some time before the wait; until then its registers belong to it
//   wgmma.commit_group, wgmma.wait_group N    groups, of which the N last may be unfinished
#include "ptx_executor/wgmma.h"

#include <algorithm>

#include "base/error.h"
#include "ptx_executor/descriptor.h"
#include "ptx_executor/forms.h"
#include "ptx_executor/schedule.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {
namespace {

constexpr int kWarpsOfGroup = 4;

// imm of an instruction: its shape. pool (d): D's units, A's units; a, b: the descriptors' units, c: scale-d.
WgmmaShape shape_of(const Instruction& i) {
  return {.n = int(i.imm & 0xff),
          .a_in_registers = (i.imm & 0x100) != 0,
          .scale_a = (i.imm & 0x200) != 0 ? -1 : 1,
          .scale_b = (i.imm & 0x400) != 0 ? -1 : 1};
}

template <class T>
T uniform(Warp& w, Unit u, const char* what) {
  const T* lanes = w.lanes<T>(u);
  for (int lane = 1; lane < kLanes; ++lane)
    if (lanes[lane] != lanes[0]) w.fault(lane, error_text(what, " differs between lanes"));
  return lanes[0];
}

void check_descriptor(Warp& w, uint64_t bits, const char* which) {
  const Descriptor d = read_descriptor(bits);
  if (d.reserved_bits) w.fault(error_text("descriptor of ", which, " sets bits that mean nothing"));
  if (d.base_offset != 0) w.fault(error_text("descriptor of ", which, ": a base offset is not modelled"));
  if (d.stride == 0) w.fault(error_text("descriptor of ", which, " has no stride"));
  if (d.swizzling == Swizzling::kNone && d.leading == 0)
    w.fault(error_text("descriptor of ", which, " has no leading dimension"));
  // The pattern has to start on its own multiple; the start may stand within its first row.
  const uint32_t pattern = swizzle_pattern(d.swizzling);
  if (d.swizzling != Swizzling::kNone &&
      (d.start % pattern > swizzle_row(d.swizzling) - 32 || d.stride % pattern != 0))
    w.fault(error_text("descriptor of ", which, ": start ", d.start, " and stride ", d.stride,
                       " do not fit a pattern of ", pattern, " bytes"));
}

void finish(Warp& w, WgmmaOperation& op) {
  if (op.done) return;
  op.done = true;
  compute(w, op, shape_of(*op.instruction));
}

// Its registers are free again.
void release(Warp& w, WgmmaState& s, const WgmmaOperation& op) {
  const WgmmaShape shape = shape_of(*op.instruction);
  const Unit* pool = w.program->pool.data() + op.instruction->d;
  for (int k = 0; k < shape.n / 2; ++k) {
    if (--s.writes[pool[k]] == 0) w.defined[pool[k]] = kAllLanes;
    --w.in_flight;
  }
  if (!shape.a_in_registers) return;
  for (int k = 0; k < 4; ++k) {
    --s.reads[pool[shape.n / 2 + k]];
    --w.in_flight;
  }
}

void check_fenced(Warp& w, const WgmmaState& s, Unit u) {
  if (s.written_at[u] >= s.fences)
    w.fault(error_text(w.program->name_of(u), " was written, and no wgmma.fence stands between"));
}

// What it reads of shared memory, it may read from now on.
void note_reads(Warp& w, const WgmmaOperation& op, const WgmmaShape& shape) {
  if (!w.block->order) return;
  const auto rows = [&](uint64_t bits, int first, int count) {
    const Descriptor d = read_descriptor(bits);
    for (int row = first; row < first + count; ++row)
      for (uint32_t chunk = 0; chunk < 2; ++chunk) {
        const uint32_t address = chunk_address(d, uint32_t(row), chunk);
        w.block->shared.at(w, 0, address, 16, 16);
        w.block->order->read_shared_async(w, 0, address, 16);
      }
  };
  rows(op.b, 0, shape.n);
  if (!shape.a_in_registers) rows(op.a, w.index % kWarpsOfGroup * 16, 16);
}

void run_mma(Warp& w, const Instruction& i) {
  WgmmaState& s = wgmma_state(w);
  const WgmmaShape shape = shape_of(i);
  WgmmaOperation op{.instruction = &i};
  if (s.fences == 0) w.fault("no wgmma.fence stands before the first wgmma");
  const uint32_t scale = w.predicate(i.c);
  if (scale != 0 && scale != kAllLanes) w.fault("scale-d differs between lanes");
  op.accumulate = scale != 0;
  op.b = uniform<uint64_t>(w, i.b, "the descriptor of b");
  check_descriptor(w, op.b, "b");
  const Unit* pool = w.program->pool.data() + i.d;
  const Unit* a = pool + shape.n / 2;
  if (shape.a_in_registers) {
    for (int k = 0; k < 4; ++k) {
      if (s.writes[a[k]] != 0) w.fault("takes for a what an unfinished wgmma writes");
      check_fenced(w, s, a[k]);
    }
  } else {
    op.a = uniform<uint64_t>(w, i.a, "the descriptor of a");
    check_descriptor(w, op.a, "a");
  }
  for (int k = 0; k < shape.n / 2; ++k) {
    const Unit u = pool[k];
    if (s.reads[u] != 0) w.fault("writes what an unfinished wgmma reads");
    if (s.writes[u] != 0) continue;  // of the same shape, in order: the ISA allows it without a wait
    if (op.accumulate && w.defined[u] != kAllLanes)
      w.fault(error_text("adds to ", w.program->name_of(u), ", which holds no value"));
    check_fenced(w, s, u);
  }
  for (int k = 0; k < shape.n / 2; ++k) {
    ++s.writes[pool[k]];
    w.defined[pool[k]] = 0;
    ++w.in_flight;
  }
  for (int k = 0; k < (shape.a_in_registers ? 4 : 0); ++k) {
    ++s.reads[a[k]];
    ++w.in_flight;
  }
  note_reads(w, op, shape);
  ++s.issued;
  const auto place = uint64_t(&i - w.program->code.data());
  for (const uint64_t part : {place, op.a, op.b, uint64_t(op.accumulate)})
    s.trace = (s.trace ^ part) * 0x9e3779b97f4a7c15u;
  // In order: what comes later may add to what comes first.
  const bool all_done =
      std::all_of(s.open.begin(), s.open.end(), [](const WgmmaOperation& o) { return o.done; }) &&
      std::all_of(s.groups.begin(), s.groups.end(), [](const auto& group) {
        return std::all_of(group.begin(), group.end(), [](const WgmmaOperation& o) { return o.done; });
      });
  if (all_done && lands_at_issue()) finish(w, op);
  s.open.push_back(op);
}

template <int kN>
void build_mma(Decoder& d, Instruction& i) {
  const bool in_registers = d.statement().operands.size() > 1 && d.operand(1).kind == Operand::Kind::kVector;
  d.operands(in_registers ? 7 : 8);
  std::vector<Unit> pool;
  // Neither read nor written as other instructions do: run_mma says what holds.
  for (const Operand& o : d.vector(0, kN / 2)) pool.push_back(d.kept(o, kF32));
  if (in_registers)
    for (const Operand& o : d.vector(1, 4)) pool.push_back(d.keep(d.source(o, kB32)));
  else
    i.a = d.source(1, kB64);
  i.d = d.put(pool);
  i.b = d.source(2, kB64);
  i.c = d.source(3, kPredicate);
  const auto scale = [&](size_t k) {
    if (d.literal(k) != 1 && int64_t(d.literal(k)) != -1) d.refuse("a scale is 1 or -1");
    return int64_t(d.literal(k)) == -1;
  };
  i.imm = kN | (in_registers ? 0x100 : 0) | (scale(4) ? 0x200 : 0) | (scale(5) ? 0x400 : 0);
  // Transposed operands are not K-major.
  for (size_t k = 6; k < d.statement().operands.size(); ++k) d.literal_is(k, 0);
  i.sets_defined = true;
  i.flow = Flow::kCollective;
  i.run = run_mma;
  d.program().has_wgmma = true;
}

void run_fence(Warp& w, const Instruction&) { ++wgmma_state(w).fences; }
void run_commit(Warp& w, const Instruction&) {
  WgmmaState& s = wgmma_state(w);
  s.groups.push_back(std::move(s.open));
  s.open.clear();
}
void run_wait(Warp& w, const Instruction& i) {
  WgmmaState& s = wgmma_state(w);
  while (s.groups.size() > size_t(i.imm)) {
    for (WgmmaOperation& op : s.groups.front()) {
      finish(w, op);
      release(w, s, op);
    }
    s.groups.pop_front();
  }
}
template <void (*kRun)(Warp&, const Instruction&), int kOperands>
void build(Decoder& d, Instruction& i) {
  d.operands(kOperands);
  if (kOperands == 1) i.imm = int64_t(d.literal(0));
  if (i.imm < 0) d.refuse("a negative number of groups");
  i.flow = Flow::kCollective;
  i.run = kRun;
}

}  // namespace

WgmmaState& wgmma_state(Warp& w) {
  auto& all = w.block->wgmma;
  if (all.empty()) all.resize(w.block->warps.size());
  std::shared_ptr<WgmmaState>& mine = all[size_t(w.index)];
  if (!mine) {
    if (w.block->warps.size() % kWarpsOfGroup != 0) w.fault("wgmma takes four warps");
    mine = std::make_shared<WgmmaState>();
    mine->writes.assign(w.program->num_units(), 0);
    mine->reads.assign(w.program->num_units(), 0);
    mine->written_at.assign(w.program->num_units(), 0);
  }
  return *mine;
}

bool is_in_flight(const Warp& w, Unit u) {
  const auto& all = w.block->wgmma;
  return !all.empty() && all[size_t(w.index)] && all[size_t(w.index)]->writes[u] != 0;
}

void check_wgmma_write(Warp& w, Unit u) {
  WgmmaState& s = wgmma_state(w);
  if (s.writes[u] != 0 || s.reads[u] != 0)
    w.fault(error_text("writes ", w.program->name_of(u), ", which an unfinished wgmma uses"));
  s.written_at[u] = s.fences;
}

void check_wgmma_done(const Warp& w) {
  const auto& all = w.block->wgmma;
  if (all.empty() || !all[size_t(w.index)]) return;
  const WgmmaState& s = *all[size_t(w.index)];
  if (!s.open.empty() || !s.groups.empty()) w.fault("ends with wgmma in flight");
}

void check_warp_groups(const Block& b) {
  for (size_t i = 0; i < b.wgmma.size(); ++i) {
    const auto &mine = b.wgmma[i], &first = b.wgmma[i / kWarpsOfGroup * kWarpsOfGroup];
    const bool same =
        !mine == !first && (!mine || (mine->issued == first->issued && mine->trace == first->trace));
    LLAMA4RT_CHECK(kInternal, same, describe(b), ": warps of a group executed different wgmma");
  }
}

void add_wgmma_forms(Forms& f) {
  const std::string name = "wgmma.mma_async.sync.aligned.m64n", types = "k16.f32.bf16.bf16";
  f.add(name + "8" + types, build_mma<8>);
  f.add(name + "64" + types, build_mma<64>);
  f.add(name + "128" + types, build_mma<128>);
  f.add("wgmma.fence.sync.aligned", build<run_fence, 0>);
  f.add("wgmma.commit_group.sync.aligned", build<run_commit, 0>);
  f.add("wgmma.wait_group.sync.aligned", build<run_wait, 1>);
}

}  // namespace llama4rt::ptx_executor
