// Loads and stores of shared and global memory and of parameters, of one to four elements. PTX ISA, "ld" and "st": an
// access is aligned to all of its bytes; a register may be wider than the element, which is then extended by its sign.
//
// Bytes that nobody has written load as a register that holds no value: using it is the fault, not loading it.
#include <cstring>

#include "base/error.h"
#include "ptx_executor/forms.h"
#include "ptx_executor/global_space.h"
#include "ptx_executor/grid.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {
namespace {

uint64_t address_of(Warp& w, const Access& a, const Instruction& i, int lane) {
  if (a.address_bits == 64) return w.lanes<uint64_t>(i.a)[lane] + uint64_t(i.imm);
  return uint32_t(w.lanes<uint32_t>(i.a)[lane] + uint32_t(i.imm));
}

uint32_t shared_address(Warp& w, int lane, uint64_t address) {
  if (address >> 32 != 0) w.fault(lane, "a shared address has 32 bits");
  return uint32_t(address);
}

// An element's bytes, extended to 64 bits.
uint64_t element(const unsigned char* p, int bytes, bool is_signed) {
  uint64_t value = 0;
  std::memcpy(&value, p, size_t(bytes));
  if (!is_signed || bytes == 8) return value;
  const int unused = 64 - 8 * bytes;
  return uint64_t(int64_t(value << unused) >> unused);
}

void put(Warp& w, Unit u, int bits, int lane, uint64_t value) {
  if (bits == 32)
    w.lanes<uint32_t>(u)[lane] = uint32_t(value);
  else if (bits == 64)
    w.lanes<uint64_t>(u)[lane] = value;
  else
    w.lanes<uint16_t>(u)[lane] = uint16_t(value);
}
uint64_t get(Warp& w, Unit u, int bits, int lane) {
  if (bits == 32) return w.lanes<uint32_t>(u)[lane];
  if (bits == 64) return w.lanes<uint64_t>(u)[lane];
  return w.lanes<uint16_t>(u)[lane];
}

// The lane's elements, and which of them hold something.
template <class Written>
void load_elements(Warp& w, const Access& a, int lane, const unsigned char* p, bool all_written,
                   Written written) {
  for (int k = 0; k < a.count; ++k) {
    const Unit u = a.units[k];
    if (u == kNoUnit) continue;
    put(w, u, a.register_bits, lane, element(p + k * a.bytes, a.bytes, a.is_signed));
    const bool holds = all_written || written(k * a.bytes);
    w.defined[u] = (w.defined[u] & ~(1u << lane)) | uint32_t(holds) << lane;
  }
}

void run_load(Warp& w, const Instruction& i) {
  const Access& a = w.program->accesses[size_t(i.b)];
  const int bytes = a.bytes * a.count;
  switch (a.space) {
    case Space::kShared: {
      SharedSpace& s = w.block->shared;
      for_each_lane(w.mask, [&](int lane) {
        const uint32_t address = shared_address(w, lane, address_of(w, a, i, lane));
        const unsigned char* p = s.at(w, lane, address, bytes, bytes);
        if (w.block->order) w.block->order->read_shared(w, lane, address, bytes);
        load_elements(w, a, lane, p, s.written(address, bytes),
                      [&](int at) { return s.written(address + uint32_t(at), a.bytes); });
      });
      return;
    }
    case Space::kGlobal: {
      GlobalSpace& g = *w.block->grid->global;
      for_each_lane(w.mask, [&](int lane) {
        const GlobalSpace::Place place = g.at(w, lane, address_of(w, a, i, lane), bytes, bytes);
        load_elements(w, a, lane, place.p, g.read(w, lane, place, bytes),
                      [&](int at) { return g.holds({place.p + at, place.writer + at}, a.bytes); });
      });
      return;
    }
    case Space::kParameter: {
      const std::vector<unsigned char>& all = w.block->grid->request->parameters;
      for_each_lane(w.mask, [&](int lane) {
        const uint64_t address = address_of(w, a, i, lane);
        if (address % uint64_t(bytes) != 0)
          w.fault(lane, error_text("parameter address ", address, " is not a multiple of ", bytes));
        if (address >= all.size() || all.size() - address < uint64_t(bytes))
          w.fault(lane, error_text(bytes, " bytes at ", address, " of ", all.size(), " bytes of parameters"));
        load_elements(w, a, lane, &all[address], true, [](int) { return true; });
      });
      return;
    }
  }
}

void run_store(Warp& w, const Instruction& i) {
  const Access& a = w.program->accesses[size_t(i.b)];
  const int bytes = a.bytes * a.count;
  ++w.block->events;
  for_each_lane(w.mask, [&](int lane) {
    unsigned char values[16];
    for (int k = 0; k < a.count; ++k) {
      const uint64_t value = get(w, a.units[k], a.register_bits, lane);
      std::memcpy(values + k * a.bytes, &value, size_t(a.bytes));
    }
    const uint64_t address = address_of(w, a, i, lane);
    if (a.space == Space::kShared) {
      SharedSpace& s = w.block->shared;
      std::memcpy(s.at(w, lane, shared_address(w, lane, address), bytes, bytes), values, size_t(bytes));
      if (w.block->order) w.block->order->write_shared(w, lane, uint32_t(address), bytes, Order::How::kPlain);
      s.mark_written(uint32_t(address), bytes);
    } else {
      GlobalSpace& g = *w.block->grid->global;
      const GlobalSpace::Place place = g.at(w, lane, address, bytes, bytes);
      std::memcpy(place.p, values, size_t(bytes));
      g.write(w, lane, place, bytes);
    }
  });
}

// "ld.shared.v4.f32"; the registers are operand 0 of a load and operand 1 of a store.
void build(Decoder& d, Instruction& i) {
  const std::string& opcode = d.statement().opcode;
  const bool is_load = opcode.starts_with("ld.");
  const std::string space = opcode.substr(3, opcode.find('.', 3) - 3);
  const Type type = type_named(opcode.substr(opcode.rfind('.') + 1));
  Access a;
  a.space = space == "shared" ? Space::kShared : space == "global" ? Space::kGlobal : Space::kParameter;
  a.bytes = type.bits / 8;
  a.is_signed = type.kind == Type::Kind::kSigned;
  for (const int count : {2, 4})
    if (opcode.find(".v" + std::to_string(count) + ".") != std::string::npos) a.count = count;
  d.operands(2);
  const Decoder::Address address = d.address(is_load ? 1 : 0, a.space);
  a.address_bits = address.bits;
  i.a = address.base;
  i.imm = address.offset;
  const Operand& registers = d.operand(is_load ? 0 : 1);
  const std::vector<Operand> one = {registers};
  const std::vector<Operand>& elements = a.count == 1 ? one : d.vector(is_load ? 0 : 1, size_t(a.count));
  for (int k = 0; k < a.count; ++k) {
    const Operand& o = elements[size_t(k)];
    int bits = type.bits;
    if (is_load && o.kind == Operand::Kind::kSink) continue;
    if (is_load) {
      a.units[k] = d.wide_destination(o, type, bits);
    } else {
      a.units[k] = d.wide_source(o, type);
      if (o.kind == Operand::Kind::kRegister) bits = d.register_bits(o);
    }
    if (a.register_bits != 0 && a.register_bits != bits) d.refuse("registers of different widths");
    a.register_bits = bits;
  }
  if (a.register_bits < 16) d.refuse("an immediate of 8 bits");
  i.b = Unit(d.program().accesses.size());
  d.program().accesses.push_back(a);
  i.sets_defined = is_load;
  i.run = is_load ? run_load : run_store;
}

}  // namespace

void add_memory_forms(Forms& f) {
  for (const std::string type :
       {"b8", "u8", "s8", "b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"})
    for (const std::string vector : {"", ".v2", ".v4"}) {
      if (vector == ".v4" && type_named(type).bits == 64) continue;  // 32 bytes: sm_100 has them
      for (const char* op : {"ld.shared", "ld.global", "ld.param", "st.shared", "st.global"})
        f.add(op + vector + "." + type, build);
    }
}

}  // namespace llama4rt::ptx_executor
