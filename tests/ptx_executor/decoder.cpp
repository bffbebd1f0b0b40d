#include "ptx_executor/decoder.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.h"

namespace llama4rt::ptx_executor {
namespace {

using Kind = Type::Kind;

// PTX lets bits stand for anything of their size, and signed for unsigned; floats are floats or bits.
bool agree(Type register_type, Type wanted) {
  if (register_type.kind == wanted.kind) return true;
  if (register_type.kind == Kind::kPredicate || wanted.kind == Kind::kPredicate) return false;
  if (register_type.kind == Kind::kBits || wanted.kind == Kind::kBits) return true;
  return register_type.kind != Kind::kFloat && wanted.kind != Kind::kFloat;
}

}  // namespace

Decoder::Decoder(const Entry& entry, Program& program) : entry_(entry), program_(program) {
  add_unit(1);  // nobody's
  for (const auto& [name, type] : entry.registers) program.registers[name] = add_unit(type.bits);
  program.first_special = program.num_units();
  for (const char* name :
       {"%tid.x", "%ntid.x", "%ctaid.x", "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z"})
    program.specials[name] = add_unit(32);
  program.first_constant = program.num_units();
}

// Registers get their places when all is decoded; the others have theirs from the start.
Unit Decoder::add_unit(int bits) {
  const Unit u = program_.num_units();
  program_.bits_of.push_back(uint8_t(bits));
  program_.place.push_back(program_.place_units);
  if (u > entry_.registers.size()) program_.place_units += places_of(bits);
  return u;
}

void Decoder::begin(const Statement& s) {
  statement_ = &s;
  kept_.clear();
  reads_.clear();
  writes_.clear();
}

void Decoder::refuse(const std::string& why) const {
  throw Error(ErrorKind::kInternal,
              error_text(program_.file, ":", statement_->line, ": ", statement_->text(), ": ", why));
}

void Decoder::operands(size_t count) const {
  if (statement_->operands.size() != count)
    refuse(error_text("expected ", count, " operands, found ", statement_->operands.size()));
}

Unit Decoder::register_unit(const Operand& o, Type type, bool wider, int* bits) const {
  if (o.kind != Operand::Kind::kRegister) refuse("expected a register");
  const Type found = entry_.registers.at(o.name);
  if (!agree(found, type) || (wider ? found.bits < type.bits : found.bits != type.bits))
    refuse(error_text("register ", o.name, " of ", found.bits, " bits does not fit a type of ", type.bits));
  if (bits) *bits = found.bits;
  return program_.registers.at(o.name);
}

uint64_t Decoder::immediate(const Operand& o, Type type) const {
  if (type.kind == Kind::kFloat) {
    if (o.kind != (type.bits == 32 ? Operand::Kind::kFloat32 : Operand::Kind::kFloat64))
      refuse("expected a register or a float of the same size");
    return o.bits;
  }
  if (o.kind != Operand::Kind::kInteger) refuse("expected a register or an integer");
  const auto value = int64_t(o.bits);
  if (type.bits < 64 && (value >= int64_t(1) << type.bits || value < -(int64_t(1) << (type.bits - 1))))
    refuse(error_text("immediate ", value, " has more than ", type.bits, " bits"));
  return o.bits;
}

Unit Decoder::source(const Operand& o, Type type) {
  if (o.kind == Operand::Kind::kRegister) {
    const Unit u = register_unit(o, type, false, nullptr);
    reads_.push_back(u);
    return u;
  }
  if (o.kind == Operand::Kind::kSpecial && type.bits == 32 && type.kind != Kind::kFloat)
    return special(o.name);
  if (type.kind == Kind::kPredicate) {
    if (o.kind != Operand::Kind::kInteger) refuse("expected a predicate");
    return constant(o.bits != 0 ? kAllLanes : 0, 1);
  }
  return constant(immediate(o, type), type.bits);
}

Unit Decoder::wide_source(const Operand& o, Type type) {
  if (o.kind != Operand::Kind::kRegister) return constant(immediate(o, type), type.bits);
  const Unit u = register_unit(o, type, true, nullptr);
  reads_.push_back(u);
  return u;
}

Unit Decoder::destination(const Operand& o, Type type) {
  const Unit u = register_unit(o, type, false, nullptr);
  writes_.push_back(u);
  return u;
}

Unit Decoder::wide_destination(const Operand& o, Type type, int& bits) {
  const Unit u = register_unit(o, type, true, &bits);
  writes_.push_back(u);
  return u;
}

Unit Decoder::short_offset(const Address& a) const {
  if (a.offset != int64_t(int32_t(a.offset))) refuse("an offset beyond 32 bits");
  return Unit(int32_t(a.offset));
}

Unit Decoder::shared_address(size_t k, int64_t& offset) {
  const Address a = address(k, Space::kShared);
  if (a.bits != 32) refuse("a shared address of 64 bits is not modelled here");
  offset = a.offset;
  return a.base;
}

uint64_t Decoder::literal(size_t k) const {
  if (operand(k).kind != Operand::Kind::kInteger) refuse(error_text("operand ", k, " must be an integer"));
  return operand(k).bits;
}

void Decoder::literal_is(size_t k, uint64_t only) const {
  if (literal(k) != only)
    refuse(error_text("operand ", k, " is ", int64_t(literal(k)), "; only ", only, " is modelled"));
}

const std::vector<Operand>& Decoder::vector(size_t k, size_t count) const {
  const Operand& o = operand(k);
  if (o.kind != Operand::Kind::kVector || o.parts.size() != count)
    refuse(error_text("operand ", k, " must be a vector of ", count));
  return o.parts;
}

Decoder::Address Decoder::address(size_t k, Space space) {
  const Operand& o = operand(k);
  if (o.kind != Operand::Kind::kAddress) refuse(error_text("operand ", k, " must be an address"));
  const Operand& base = o.parts[0];
  Address a{.base = kNoUnit, .bits = 64, .offset = o.offset};
  if (base.kind == Operand::Kind::kSymbol) {
    if (space == Space::kGlobal)
      refuse(error_text(base.name, ": no variables in global memory are expected"));
    if ((space == Space::kShared) != program_.shared.contains(base.name))
      refuse(error_text(base.name, " is not a variable of this space"));
    a.base = constant(address_of(base.name), 64);
    return a;
  }
  if (base.kind != Operand::Kind::kRegister) refuse("an address starts with a register or a variable");
  a.bits = entry_.registers.at(base.name).bits;
  if (a.bits != 64 && !(a.bits == 32 && space == Space::kShared))
    refuse(error_text("register ", base.name, " of ", a.bits, " bits is no address of this space"));
  a.base = source(base, {Kind::kBits, a.bits});
  return a;
}

uint32_t Decoder::label(size_t k) const {
  const auto it = entry_.labels.find(operand(k).name);
  if (operand(k).kind != Operand::Kind::kSymbol || it == entry_.labels.end()) refuse("no such label");
  return uint32_t(it->second);
}

Unit Decoder::members(size_t k) {
  const Operand& o = operand(k);
  if (o.kind == Operand::Kind::kRegister) return source(o, {Kind::kBits, 32});
  if (uint32_t(literal(k)) != kAllLanes) refuse("a mask of lanes that is no register must be all of them");
  return kNoUnit;
}

Unit Decoder::constant(uint64_t value, int bits) {
  if (bits < 64 && bits > 1) value &= (uint64_t(1) << bits) - 1;
  const auto [it, is_new] = constants_.emplace(std::pair(value, bits), program_.num_units());
  if (!is_new) return it->second;
  add_unit(bits);
  std::vector<unsigned char>& bytes = program_.constants;
  bytes.resize(program_.place_units * kPlaceBytes);
  const size_t at = program_.place[it->second] * kPlaceBytes;
  if (bits == 1) {
    std::memcpy(&bytes[at], &value, 4);
  } else {
    const size_t size = size_t(std::max(bits, 16)) / 8;
    for (size_t lane = 0; lane < kLanes; ++lane) std::memcpy(&bytes[at + lane * size], &value, size);
  }
  return it->second;
}

Unit Decoder::special(const std::string& name) {
  const auto it = program_.specials.find(name);
  if (it == program_.specials.end()) refuse(error_text("special register ", name, " is not modelled"));
  return it->second;
}

uint64_t Decoder::address_of(const std::string& name) const {
  if (const auto it = program_.shared.find(name); it != program_.shared.end()) return it->second;
  for (const ParameterPlace& p : program_.parameters)
    if (p.name == name) return uint64_t(p.offset);
  refuse(error_text(name, " is no variable"));
}

uint32_t Decoder::put(const std::vector<Unit>& units) {
  const size_t at = program_.pool.size();
  program_.pool.insert(program_.pool.end(), units.begin(), units.end());
  return uint32_t(at);
}

}  // namespace llama4rt::ptx_executor
