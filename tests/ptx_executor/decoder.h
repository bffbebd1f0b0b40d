// What a form (forms.h) asks about the operands of the statement at hand. Whatever does not fit is refused with the
// operand's name, so that no modifier and no immediate goes unread.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "ptx_executor/program.h"

namespace llama4rt::ptx_executor {

class Decoder {
 public:
  Decoder(const Entry& entry, Program& program);

  void begin(const Statement& s);  // of the next instruction
  const Statement& statement() const { return *statement_; }
  Program& program() { return program_; }
  [[noreturn]] void refuse(const std::string& why) const;

  // The unit of the base, which has 32 or 64 bits, and the offset. Where the base is a variable, the unit holds its
  // address.
  struct Address {
    Unit base = kNoUnit;
    int bits = 64;
    int64_t offset = 0;
  };

  void operands(size_t count) const;  // exactly so many
  const Operand& operand(size_t k) const { return statement_->operands[k]; }

  // A register of this size and kind, or an immediate of it.
  Unit source(size_t k, Type type) { return source(operand(k), type); }
  Unit source(const Operand& o, Type type);
  // A register that is at least as wide, for st and cvt.
  Unit wide_source(const Operand& o, Type type);
  Unit destination(size_t k, Type type) { return destination(operand(k), type); }
  Unit destination(const Operand& o, Type type);
  // A register that is at least as wide, for ld and cvt; its bits go to `bits`.
  Unit wide_destination(const Operand& o, Type type, int& bits);
  int register_bits(const Operand& o) const { return entry_.registers.at(o.name).bits; }
  // A register that an asynchronous instruction reads and writes until a wait, and accounts for by itself.
  Unit kept(const Operand& o, Type type) { return keep(register_unit(o, type, false, nullptr)); }
  Unit keep(Unit u) {
    kept_.push_back(u);
    return u;
  }
  // The offset of an address, where an instruction keeps it in 32 bits.
  Unit short_offset(const Address& a) const;
  // An integer literal.
  uint64_t literal(size_t k) const;
  void literal_is(size_t k, uint64_t only) const;
  // {a, b, ...} of so many operands.
  const std::vector<Operand>& vector(size_t k, size_t count) const;
  Address address(size_t k, Space space);          // [base + offset]
  Unit shared_address(size_t k, int64_t& offset);  // with a base of 32 bits
  // The statement that a label names, for a branch.
  uint32_t label(size_t k) const;
  // The mask of lanes of a .sync instruction: all, or a register.
  Unit members(size_t k);

  Unit constant(uint64_t value, int bits);
  Unit special(const std::string& name);
  // The address of a variable, as `mov` takes it.
  uint64_t address_of(const std::string& name) const;

  // Appends to the pool and gives where it starts.
  uint32_t put(const std::vector<Unit>& units);

  // Units that the statement reads, writes, and uses until a later wait, collected on the way.
  const std::vector<Unit>& reads() const { return reads_; }
  const std::vector<Unit>& writes() const { return writes_; }
  const std::vector<Unit>& kept() const { return kept_; }

 private:
  Unit add_unit(int bits);
  Unit register_unit(const Operand& o, Type type, bool wider, int* bits) const;
  uint64_t immediate(const Operand& o, Type type) const;

  const Entry& entry_;
  Program& program_;
  const Statement* statement_ = nullptr;
  std::map<std::pair<uint64_t, int>, Unit> constants_;
  std::vector<Unit> reads_, writes_, kept_;
};

}  // namespace llama4rt::ptx_executor
