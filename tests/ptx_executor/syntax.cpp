#include "ptx_executor/syntax.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "ptx_executor/lexer.h"

namespace llama4rt::ptx_executor {
namespace {

using std::string;
using std::string_view;

bool is_number(string_view w) { return !w.empty() && w[0] >= '0' && w[0] <= '9'; }

uint64_t integer_in(const Lexer& in, string_view word, string_view digits, int base) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error != std::errc() || end != digits.data() + digits.size())
    in.fail(error_text("'", word, "' is not a number"));
  return value;
}

// 12, 0x1F, 12U; 0f and 0d numbers are read by `operand`.
uint64_t integer(const Lexer& in, string_view word) {
  string_view digits = word;
  if (digits.ends_with('U')) digits.remove_suffix(1);
  if (digits.starts_with("0x") || digits.starts_with("0X")) return integer_in(in, word, digits.substr(2), 16);
  if (digits.size() > 1 && digits[0] == '0') in.fail(error_text("'", word, "': octal numbers are refused"));
  return integer_in(in, word, digits, 10);
}

int64_t signed_integer(Lexer& in) {
  const bool negative = in.accept("-");
  const auto value = int64_t(integer(in, in.next()));
  return negative ? -value : value;
}

// Reads one kernel.
class Reader {
 public:
  Reader(Lexer in, Entry& entry) : in_(in), entry_(entry) {}
  void parameters();
  void directives();
  void body();

 private:
  // A scope of { }: names declared in it -> names in the entry.
  using Scope = std::map<string, string, std::less<>>;
  void declare_registers();
  void declare_shared();
  void statement();
  Operand operand();
  Operand address();
  string resolved(string_view name) const;
  bool is_register(const string& name) const { return entry_.registers.contains(name); }

  Lexer in_;
  Entry& entry_;
  std::vector<Scope> scopes_;
  int num_scopes_ = 0;
};

// .param .align 8 .b8 NAME[64]  or  .param .u64 NAME
Variable variable(Lexer& in) {
  Variable v;
  if (in.accept(".align")) v.alignment = int64_t(integer(in, in.next()));
  const string_view dotted = in.next();
  const Type type = dotted.starts_with('.') ? type_named(dotted.substr(1)) : Type{};
  if (type.bits < 8) in.fail(error_text("'", dotted, "' is not the type of a variable"));
  const int64_t size = type.bits / 8;
  v.alignment = std::max(v.alignment, size);
  v.name = in.next();
  v.bytes = size;
  if (in.accept("[")) {
    v.bytes = in.peek() == "]" ? 0 : int64_t(integer(in, in.next())) * size;
    in.expect("]");
  }
  return v;
}

void Reader::parameters() {
  entry_.name = in_.next();
  in_.expect("(");
  while (!in_.accept(")")) {
    in_.expect(".param");
    entry_.parameters.push_back(variable(in_));
    if (!in_.accept(",") && in_.peek() != ")") in_.fail("expected ',' or ')' behind a parameter");
  }
}

void Reader::directives() {
  while (!in_.accept("{")) {
    const string_view word = in_.next();
    if (word == ".maxntid") {
      entry_.max_threads = int(integer(in_, in_.next()));
      while (in_.accept(","))
        if (integer(in_, in_.next()) != 1) in_.fail("blocks are along x only");
    } else if (word == ".minnctapersm") {
      entry_.min_blocks = int(integer(in_, in_.next()));
    } else {
      in_.fail(error_text("directive '", word, "' of a kernel is refused"));
    }
  }
}

void Reader::declare_registers() {
  const string_view dotted = in_.next();
  const Type type = type_named(dotted.substr(1));
  if (type.bits == 0) in_.fail(error_text("'", dotted, "' is not the type of a register"));
  do {
    const string name(in_.next());
    const auto declare = [&](const string& n) {
      // At the top a name stands for itself, so that messages show it as the text has it.
      const string inside = scopes_.size() == 1 ? n : n + "@" + std::to_string(num_scopes_);
      if (!entry_.registers.emplace(inside, type).second)
        in_.fail(error_text("register ", n, " is declared twice"));
      scopes_.back()[n] = inside;
    };
    if (in_.accept("<")) {
      const uint64_t count = integer(in_, in_.next());
      in_.expect(">");
      for (uint64_t i = 0; i < count; ++i) declare(name + std::to_string(i));
    } else {
      declare(name);
    }
  } while (in_.accept(","));
  in_.expect(";");
}

void Reader::declare_shared() {
  entry_.shared.push_back(variable(in_));
  in_.expect(";");
}

void Reader::body() {
  scopes_.emplace_back();
  while (true) {
    if (in_.accept("{")) {
      ++num_scopes_;
      scopes_.emplace_back();
    } else if (in_.accept("}")) {
      scopes_.pop_back();
      if (scopes_.empty()) return;
    } else if (in_.accept(";")) {
      continue;
    } else if (in_.accept(".reg")) {
      declare_registers();
    } else if (in_.accept(".shared")) {
      declare_shared();
    } else if (in_.accept(".pragma")) {
      in_.next();  // hints to ptxas: unrolling, which bytes of a vector load are used
      in_.expect(";");
    } else {
      statement();
    }
  }
}

string Reader::resolved(string_view name) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
    if (const auto it = scope->find(name); it != scope->end()) return it->second;
  return string(name);
}

void Reader::statement() {
  Statement s;
  if (in_.accept("@")) {
    s.guard_negated = in_.accept("!");
    s.guard = resolved(in_.next());
    if (!is_register(s.guard)) in_.fail(error_text("'", s.guard, "' guards a statement and is no register"));
  }
  s.opcode = in_.next();
  s.line = in_.line();
  if (s.opcode.empty()) in_.fail("a kernel without end");
  if (s.guard.empty() && in_.accept(":")) {
    if (!entry_.labels.emplace(s.opcode, entry_.statements.size()).second)
      in_.fail(error_text("label ", s.opcode, " stands twice"));
    return;
  }
  if (s.opcode[0] < 'a' || s.opcode[0] > 'z') in_.fail(error_text("'", s.opcode, "' is not an instruction"));
  if (!in_.accept(";")) {
    do s.operands.push_back(operand());
    while (in_.accept(","));
    in_.expect(";");
  }
  entry_.statements.push_back(std::move(s));
}

Operand Reader::address() {
  Operand a{.kind = Operand::Kind::kAddress, .name = {}};
  a.parts.push_back(operand());
  if (in_.accept("+")) a.offset = signed_integer(in_);
  if (in_.accept(",")) a.parts.push_back(operand());  // coordinates
  in_.expect("]");
  return a;
}

Operand Reader::operand() {
  if (in_.accept("[")) return address();
  Operand o;
  if (in_.accept("{")) {
    o.kind = Operand::Kind::kVector;
    do o.parts.push_back(operand());
    while (in_.accept(","));
    in_.expect("}");
    return o;
  }
  const bool negative = in_.accept("-");
  const string_view word = in_.next();
  if (negative || is_number(word)) {
    const bool f32 = word.starts_with("0f") || word.starts_with("0F");
    const bool f64 = word.starts_with("0d") || word.starts_with("0D");
    o.kind = f32 ? Operand::Kind::kFloat32 : f64 ? Operand::Kind::kFloat64 : Operand::Kind::kInteger;
    if (f32 || f64) {
      if (negative || word.size() != (f32 ? 10u : 18u)) in_.fail(error_text("'", word, "' is not a float"));
      o.bits = integer_in(in_, word, word.substr(2), 16);
    } else {
      o.bits = negative ? uint64_t(0) - integer(in_, word) : integer(in_, word);
    }
    return o;
  }
  if (word == "_") return o;
  o.name = resolved(word);
  if (o.name.empty() || (o.name[0] != '%' && o.name[0] != '$' && o.name[0] != '_' &&
                         std::isalpha(static_cast<unsigned char>(o.name[0])) == 0))
    in_.fail(error_text("'", word, "' is not an operand"));
  if (is_register(o.name))
    o.kind = Operand::Kind::kRegister;
  else
    o.kind = o.name[0] == '%' ? Operand::Kind::kSpecial : Operand::Kind::kSymbol;
  return o;
}

string operand_text(const Operand& o) {
  const auto list = [&](size_t from) {
    string text;
    for (size_t i = from; i < o.parts.size(); ++i) text += (i > from ? ", " : "") + operand_text(o.parts[i]);
    return text;
  };
  switch (o.kind) {
    case Operand::Kind::kInteger:
      return std::to_string(int64_t(o.bits));
    case Operand::Kind::kFloat32:
    case Operand::Kind::kFloat64: {
      std::ostringstream out;
      out << (o.kind == Operand::Kind::kFloat32 ? "0f" : "0d") << std::hex << o.bits;
      return out.str();
    }
    case Operand::Kind::kSink:
      return "_";
    case Operand::Kind::kVector:
      return "{" + list(0) + "}";
    case Operand::Kind::kAddress:
      return "[" + operand_text(o.parts[0]) + (o.offset != 0 ? "+" + std::to_string(o.offset) : "") +
             (o.parts.size() > 1 ? ", " + list(1) : "") + "]";
    default:
      return o.name;
  }
}

}  // namespace

Type type_named(string_view name) {
  using Kind = Type::Kind;
  if (name == "pred") return {Kind::kPredicate, 1};
  if (name.size() < 2) return {};
  const Kind kind = name[0] == 'u'   ? Kind::kUnsigned
                    : name[0] == 's' ? Kind::kSigned
                    : name[0] == 'f' ? Kind::kFloat
                                     : Kind::kBits;
  if (kind == Kind::kBits && name[0] != 'b') return {};
  for (const int bits : {8, 16, 32, 64})
    if (name.substr(1) == std::to_string(bits) && !(kind == Kind::kFloat && bits < 32)) return {kind, bits};
  return {};
}

string Statement::text() const {
  string text = guard.empty() ? "" : (guard_negated ? "@!" : "@") + guard + " ";
  text += opcode;
  for (size_t i = 0; i < operands.size(); ++i) text += (i > 0 ? ", " : " ") + operand_text(operands[i]);
  return text;
}

ModuleText::ModuleText(string file, string text) : text_(std::move(text)) {
  module_.file = std::move(file);
  Lexer in(module_.file, text_);
  while (!in.peek().empty()) {
    const string_view word = in.next();
    if (word == ".version") {
      module_.version = in.next();
    } else if (word == ".target") {
      module_.target = in.next();
    } else if (word == ".address_size") {
      if (in.next() != "64") in.fail("addresses of 64 bits are expected");
    } else if (word == ".visible" || word == ".extern" || word == ".weak") {
      continue;  // of what follows; the linker's business
    } else if (word == ".shared") {
      module_.shared.push_back(variable(in));
      in.expect(";");
    } else if (word == ".entry") {
      const Body body{in.position(), in.line()};
      const string name(in.peek());
      Entry skipped;
      while (!in.accept("{"))
        if (in.next().empty()) in.fail("a kernel without a body");
      in.skip_block();
      module_.names.push_back(name);
      if (!bodies_.emplace(name, body).second) in.fail(error_text("kernel ", name, " stands twice"));
    } else {
      in.fail(error_text("'", word, "' outside of kernels is refused"));
    }
  }
}

Entry ModuleText::entry(const string& name) const {
  const auto it = bodies_.find(name);
  LLAMA4RT_CHECK(kInternal, it != bodies_.end(), module_.file, ": no kernel ", name);
  Entry entry;
  Reader reader(Lexer(module_.file, text_, it->second.begin, it->second.line), entry);
  reader.parameters();
  reader.directives();
  reader.body();
  return entry;
}

}  // namespace llama4rt::ptx_executor
