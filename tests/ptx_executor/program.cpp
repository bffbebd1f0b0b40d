#include "ptx_executor/program.h"

#include <algorithm>
#include <set>

#include "base/checked_math.h"
#include "base/error.h"
#include "ptx_executor/allocate.h"
#include "ptx_executor/forms.h"

namespace llama4rt::ptx_executor {
namespace {

// The next address that is aligned as asked and no better, so that code which needs more than was declared goes wrong.
int64_t barely_aligned(int64_t at, int64_t alignment) {
  return round_up(at - alignment, 2 * alignment) + alignment;
}

bool names(const Operand& o, const std::string& variable) {
  if (o.kind == Operand::Kind::kSymbol && o.name == variable) return true;
  return std::any_of(o.parts.begin(), o.parts.end(), [&](const Operand& p) { return names(p, variable); });
}

// What the kernel uses of the module's variables, its own, and the dynamic array behind them.
void place_shared(const Module& module, const Entry& entry, Program& p) {
  const auto used = [&](const Variable& v) {
    return std::any_of(entry.statements.begin(), entry.statements.end(), [&](const Statement& s) {
      return std::any_of(s.operands.begin(), s.operands.end(),
                         [&](const Operand& o) { return names(o, v.name); });
    });
  };
  std::vector<Variable> all = entry.shared;
  all.insert(all.end(), module.shared.begin(), module.shared.end());
  int64_t at = kSharedStart;
  const Variable* dynamic = nullptr;
  for (const Variable& v : all) {
    if (!used(v)) continue;
    if (v.bytes == 0) {
      LLAMA4RT_CHECK(kInternal, !dynamic, p.file, ": ", p.name, " has two dynamic arrays");
      dynamic = &v;
      continue;
    }
    at = barely_aligned(at, v.alignment);
    p.shared[v.name] = uint32_t(at);
    at += v.bytes;
    p.declared_shared += v.bytes;
  }
  p.shared_begin = kSharedStart;
  p.shared_end = p.dynamic_begin = uint32_t(at);
  if (!dynamic) return;
  p.dynamic_shared = dynamic->name;
  p.dynamic_begin = uint32_t(barely_aligned(at, dynamic->alignment));
  p.shared[dynamic->name] = p.dynamic_begin;
}

void place_parameters(const Entry& entry, Program& p) {
  for (const Variable& v : entry.parameters) {
    p.parameter_bytes = round_up(p.parameter_bytes, v.alignment);
    p.parameters.push_back({v.name, p.parameter_bytes, v.bytes});
    p.parameter_bytes += v.bytes;
  }
}

Instruction decode_one(Decoder& d, const Statement& s, Uses& uses) {
  d.begin(s);
  const Form* form = forms().find(s.opcode);
  if (!form) d.refuse("this instruction is not modelled");
  Instruction i;
  i.run = form->run;
  if (form->build) {
    form->build(d, i);
  } else {
    d.operands(form->types.size());
    Unit* const places[] = {&i.a, &i.b, &i.c};
    for (size_t k = 1; k < form->types.size(); ++k) *places[k - 1] = d.source(k, form->types[k]);
    i.d = d.destination(0, form->types[0]);
  }
  if (!s.guard.empty()) {
    i.guard = d.source(Operand{.kind = Operand::Kind::kRegister, .name = s.guard}, kPredicate);
    i.guard_negated = s.guard_negated;
  }
  uses = {.reads = d.reads(), .writes = d.writes(), .kept = d.kept(), .replaces = s.guard.empty()};
  std::vector<Unit> reads = d.reads();
  if (i.guard != kNoUnit) reads.pop_back();  // it is read for all lanes, before the others
  i.reads = d.put(reads);
  i.num_reads = uint8_t(reads.size());
  i.writes = d.put(d.writes());
  i.num_writes = uint8_t(d.writes().size());
  LLAMA4RT_CHECK(kInternal, reads.size() < 256 && d.writes().size() < 256, "too many operands");
  return i;
}

// What asynchronous instructions use is needed from the first of them to the last wait.
void keep_until_waits(const Program& p, std::vector<Uses>& uses) {
  std::set<Unit> all;
  for (const Uses& u : uses) all.insert(u.kept.begin(), u.kept.end());
  for (size_t at = 0; at < uses.size(); ++at) {
    if (!p.statements[at].opcode.starts_with("wgmma.")) continue;
    uses[at].reads.insert(uses[at].reads.end(), all.begin(), all.end());
  }
}

}  // namespace

Program decode(const Module& module, const Entry& entry) {
  Program p;
  p.name = entry.name;
  p.file = module.file;
  p.max_threads = entry.max_threads;
  p.min_blocks = entry.min_blocks;
  place_shared(module, entry, p);
  place_parameters(entry, p);
  Decoder d(entry, p);
  std::vector<Uses> uses(entry.statements.size() + 1);
  std::set<std::string> refused;
  for (const Statement& s : entry.statements) {
    try {
      p.code.push_back(decode_one(d, s, uses[p.code.size()]));
    } catch (const Error& e) {
      refused.insert(e.what());
    }
  }
  if (!refused.empty()) {
    std::string text = error_text("kernel ", p.name, " cannot be executed:");
    for (const std::string& r : refused) text += "\n  " + r;
    throw Error(ErrorKind::kInternal, text);
  }
  p.statements = entry.statements;
  // Running off the end is an exit, as for ret.
  const Statement end{.line = entry.statements.empty() ? 0 : entry.statements.back().line,
                      .guard = {},
                      .opcode = "ret",
                      .operands = {}};
  p.statements.push_back(end);
  p.code.push_back(decode_one(d, p.statements.back(), uses[p.code.size()]));
  for (const auto& [label, at] : entry.labels) p.code[at].is_label = true;
  keep_until_waits(p, uses);
  allocate(p, uses);
  return p;
}

std::string Program::where(size_t pc) const {
  return error_text(file, ":", statements[pc].line, ": ", statements[pc].text());
}

std::string Program::name_of(Unit u) const {
  for (const auto& [register_name, unit] : registers)
    if (unit == u) return register_name;
  return "?";
}

}  // namespace llama4rt::ptx_executor
