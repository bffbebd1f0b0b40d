// Moves: registers, addresses of variables, halves and quarters, and generic addresses (PTX ISA, "mov" and "cvta").
#include <algorithm>

#include "ptx_executor/forms.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {
namespace {

template <class T>
void run_copy(Warp& w, const Instruction& i) {
  map_lanes<T, T>(w, i, [](T a) { return a; });
}

// d = {s0, s1, ...}, the first lowest. imm: where the parts stand in the pool; b: how many there are.
template <class Whole, class Part>
void run_join(Warp& w, const Instruction& i) {
  const Unit* parts = &w.program->pool[size_t(i.imm)];
  for_each_lane(w.mask, [&](int lane) {
    Whole whole = 0;
    for (Unit k = 0; k < i.b; ++k) whole |= Whole(w.lanes<Part>(parts[k])[lane]) << (8 * sizeof(Part) * k);
    w.lanes<Whole>(i.d)[lane] = whole;
  });
}
template <class Whole, class Part>
void run_split(Warp& w, const Instruction& i) {
  const Unit* parts = &w.program->pool[size_t(i.imm)];
  for_each_lane(w.mask, [&](int lane) {
    const Whole whole = w.lanes<Whole>(i.a)[lane];
    for (Unit k = 0; k < i.b; ++k)
      if (parts[k] != kNoUnit) w.lanes<Part>(parts[k])[lane] = Part(whole >> (8 * sizeof(Part) * k));
  });
}

template <class Whole, class Part>
void build_parts(Decoder& d, Instruction& i, bool join) {
  constexpr Type kWhole{Type::Kind::kBits, 8 * sizeof(Whole)}, kPart{Type::Kind::kBits, 8 * sizeof(Part)};
  std::vector<Unit> parts;
  for (const Operand& o : d.operand(join ? 1 : 0).parts) {
    if (!join && o.kind == Operand::Kind::kSink)
      parts.push_back(kNoUnit);
    else
      parts.push_back(join ? d.source(o, kPart) : d.destination(o, kPart));
  }
  if (join)
    i.d = d.destination(0, kWhole);
  else
    i.a = d.source(1, kWhole);
  i.b = Unit(parts.size());
  i.imm = d.put(parts);
  i.run = join ? run_join<Whole, Part> : run_split<Whole, Part>;
}

template <class T>
void build_bits(Decoder& d, Instruction& i) {
  constexpr Type kType{Type::Kind::kBits, 8 * sizeof(T)};
  d.operands(2);
  const bool join = d.operand(1).kind == Operand::Kind::kVector;
  if (join || d.operand(0).kind == Operand::Kind::kVector) {
    const size_t count = d.operand(join ? 1 : 0).parts.size();
    if constexpr (sizeof(T) == 8) {
      if (count == 2) return build_parts<uint64_t, uint32_t>(d, i, join);
      if (count == 4) return build_parts<uint64_t, uint16_t>(d, i, join);
    }
    if constexpr (sizeof(T) == 4)
      if (count == 2) return build_parts<uint32_t, uint16_t>(d, i, join);
    d.refuse("so many parts are not modelled");
  }
  // An address: of shared memory, or of a parameter within its space.
  if (d.operand(1).kind == Operand::Kind::kSymbol)
    i.a = d.constant(d.address_of(d.operand(1).name), kType.bits);
  else
    i.a = d.source(1, kType);
  i.d = d.destination(0, kType);
  i.run = run_copy<T>;
}

void run_from_shared(Warp& w, const Instruction& i) {
  map_lanes<uint64_t, uint64_t>(w, i, [](uint64_t a) { return a + kSharedWindow; });
}
void run_from_parameter(Warp& w, const Instruction& i) {
  map_lanes<uint64_t, uint64_t>(w, i, [](uint64_t a) { return a + kParameterWindow; });
}
void run_to_shared(Warp& w, const Instruction& i) {
  for_each_lane(w.mask, [&](int lane) {
    const uint64_t a = w.lanes<uint64_t>(i.a)[lane];
    if (a < kSharedWindow || (a - kSharedWindow) >> 24 != 0)
      w.fault(lane, "the generic address is not one of shared memory");
    w.lanes<uint64_t>(i.d)[lane] = a - kSharedWindow;
  });
}
// Generic addresses of global memory are those of its own.
void run_to_global(Warp& w, const Instruction& i) {
  for_each_lane(w.mask, [&](int lane) {
    const uint64_t a = w.lanes<uint64_t>(i.a)[lane];
    if (a >= kSharedWindow) w.fault(lane, "the generic address is not one of global memory");
    w.lanes<uint64_t>(i.d)[lane] = a;
  });
}

}  // namespace

void add_move_forms(Forms& f) {
  f.add("mov.b16", build_bits<uint16_t>);
  f.add("mov.b32", build_bits<uint32_t>);
  f.add("mov.b64", build_bits<uint64_t>);
  f.add("mov.f32", {kF32, kF32}, run_copy<uint32_t>);
  f.add("mov.f64", {kF64, kF64}, run_copy<uint64_t>);
  for (const std::string kind : {"mov.u", "mov.s"}) {
    f.add(kind + "16", build_bits<uint16_t>);
    f.add(kind + "32", build_bits<uint32_t>);
    f.add(kind + "64", build_bits<uint64_t>);
  }
  f.add("cvta.shared.u64", {kU64, kU64}, run_from_shared);
  f.add("cvta.param.u64", {kU64, kU64}, run_from_parameter);
  f.add("cvta.to.shared.u64", {kU64, kU64}, run_to_shared);
  f.add("cvta.to.global.u64", {kU64, kU64}, run_to_global);
}

}  // namespace llama4rt::ptx_executor
