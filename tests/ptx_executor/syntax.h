// The text of a PTX module as statements: registers, variables, labels and scopes resolved, opcodes not yet
// understood (forms.h does that). What the grammar here does not know is refused with its line.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace llama4rt::ptx_executor {

// A fundamental type: its bits, and what they are.
struct Type {
  enum class Kind : uint8_t { kBits, kUnsigned, kSigned, kFloat, kPredicate };
  Kind kind = Kind::kBits;
  int bits = 0;  // 1 for predicates
  bool operator==(const Type&) const = default;
};
// "s32" -> {kSigned, 32}; bits 0 for what is no fundamental type.
Type type_named(std::string_view name);

struct Operand {
  enum class Kind : uint8_t {
    kRegister,  // `name`
    kInteger,   // `bits`
    kFloat32,   // 0f3F800000: `bits`
    kFloat64,   // 0d3FF0000000000000
    kSymbol,    // `name` of a variable, parameter or label, plus `offset`
    kSpecial,   // %tid.x
    kSink,      // _
    kVector,    // {a, b}: `parts`
    kAddress,   // [base + offset]: `parts` holds the base; of a tensor map also a vector of coordinates
  };
  Kind kind = Kind::kSink;
  std::string name;
  uint64_t bits = 0;
  int64_t offset = 0;
  std::vector<Operand> parts = {};
};

struct Statement {
  int line = 0;
  std::string guard;  // name of a predicate, or empty
  bool guard_negated = false;
  std::string opcode;  // "add.s32"
  std::vector<Operand> operands;
  std::string text() const;  // for reports
};

// Memory with a name: of the module, of a kernel, or a parameter.
struct Variable {
  std::string name;
  int64_t alignment = 1;
  int64_t bytes = 0;  // 0: the launch says it (extern shared)
};

// A kernel.
struct Entry {
  std::string name;
  std::vector<Variable> parameters;
  std::vector<Variable> shared;  // declared in the body
  std::map<std::string, Type> registers;
  std::vector<Statement> statements;
  std::map<std::string, size_t> labels;  // -> index of the statement behind it
  int max_threads = 0;                   // .maxntid; 0: not said
  int min_blocks = 0;                    // .minnctapersm
};

struct Module {
  std::string file;                // for messages
  std::string version, target;     // "9.0", "sm_90a"
  std::vector<Variable> shared;    // of the module; an extern one has no size
  std::vector<std::string> names;  // of the kernels, in the order of the text
};

// Reads the parts before and between kernels. `text` must stay as long as `entry` is called.
class ModuleText {
 public:
  ModuleText(std::string file, std::string text);
  const Module& module() const { return module_; }
  bool has(const std::string& name) const { return bodies_.contains(name); }
  // Parses one kernel; throws Error(kInternal) that names file and line.
  Entry entry(const std::string& name) const;

 private:
  struct Body {
    size_t begin = 0;  // of the text behind ".entry"
    int line = 0;
  };
  std::string text_;
  Module module_;
  std::map<std::string, Body> bodies_;
};

}  // namespace llama4rt::ptx_executor
