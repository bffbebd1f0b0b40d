// The table of instructions: what each opcode with all its modifiers takes, and what executes it. An opcode that is not
// in the table, or an operand that does not fit, is refused when a kernel is loaded; nothing is ignored.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ptx_executor/decoder.h"
#include "ptx_executor/program.h"

namespace llama4rt::ptx_executor {

using Run = void (*)(Warp&, const Instruction&);
using Build = void (*)(Decoder&, Instruction&);

struct Form {
  std::vector<Type> types;  // destination, then sources: operands in this order, one each
  Run run = nullptr;
  Build build = nullptr;  // instead, where operands are not that simple
};

class Forms {
 public:
  void add(std::string opcode, std::vector<Type> types, Run run);
  void add(std::string opcode, Build build);
  const Form* find(const std::string& opcode) const;
  std::vector<std::string> opcodes() const;  // all, sorted

 private:
  std::unordered_map<std::string, Form> table_;
};

// The one table, filled by the functions below.
const Forms& forms();

void add_integer_forms(Forms& f);     // integer.cpp
void add_bit_forms(Forms& f);         // bits.cpp
void add_float_forms(Forms& f);       // float.cpp
void add_conversion_forms(Forms& f);  // convert.cpp
void add_predicate_forms(Forms& f);   // compare.cpp
void add_move_forms(Forms& f);        // move.cpp
void add_memory_forms(Forms& f);      // load_store.cpp
void add_atomic_forms(Forms& f);      // atomic.cpp
void add_control_forms(Forms& f);     // control.cpp
void add_lane_forms(Forms& f);        // lanes.cpp
void add_barrier_forms(Forms& f);     // barriers.cpp
void add_copy_forms(Forms& f);        // copy_async.cpp
void add_mbarrier_forms(Forms& f);    // mbarrier.cpp
void add_bulk_forms(Forms& f);        // bulk.cpp
void add_tensor_forms(Forms& f);      // tensor.cpp
void add_matrix_forms(Forms& f);      // matrix.cpp
void add_wgmma_forms(Forms& f);       // wgmma.cpp
void add_register_forms(Forms& f);    // registers.cpp

inline constexpr Type kU16{Type::Kind::kUnsigned, 16}, kU32{Type::Kind::kUnsigned, 32},
    kU64{Type::Kind::kUnsigned, 64}, kS16{Type::Kind::kSigned, 16}, kS32{Type::Kind::kSigned, 32},
    kS64{Type::Kind::kSigned, 64}, kB16{Type::Kind::kBits, 16}, kB32{Type::Kind::kBits, 32},
    kB64{Type::Kind::kBits, 64}, kF32{Type::Kind::kFloat, 32}, kF64{Type::Kind::kFloat, 64},
    kPredicate{Type::Kind::kPredicate, 1};

}  // namespace llama4rt::ptx_executor
