// Faults put into PTX: a statement's opcode or operands changed, moved or dropped. What a fault changes must be there, so
// that none goes stale unseen.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "ptx_executor/install.h"
#include "test.h"

namespace llama4rt::test {

using Edit = std::function<std::string(const std::string&)>;

namespace mutate {

// A statement of a text: "opcode operands;" at [begin, end), with what stands in front (a guard, a scope) left out.
struct Found {
  size_t begin = 0, end = 0;
  std::vector<std::string> operands;
};

inline std::vector<std::string> operands_of(const std::string& text) {
  std::vector<std::string> all(1);
  int depth = 0;
  for (const char c : text) {
    depth += c == '{' || c == '[' ? 1 : c == '}' || c == ']' ? -1 : 0;
    if (c == ',' && depth == 0)
      all.emplace_back();
    else if (!all.back().empty() || (c != ' ' && c != '\t'))
      all.back() += c;
  }
  return all;
}

inline std::vector<Found> statements(const std::string& text, const std::string& opcode) {
  std::vector<Found> all;
  for (size_t at = text.find(opcode); at != std::string::npos; at = text.find(opcode, at + 1)) {
    const size_t behind = at + opcode.size();
    const bool whole = (at == 0 || text[at - 1] == ' ' || text[at - 1] == '\t' || text[at - 1] == '\n') &&
                       (text[behind] == ' ' || text[behind] == '\t' || text[behind] == ';');
    if (!whole) continue;
    const size_t end = text.find(';', behind) + 1;
    all.push_back({at, end, operands_of(text.substr(behind, end - 1 - behind))});
  }
  return all;
}

// Every statement of this opcode becomes what `f` makes of its operands; at least one must change.
inline Edit each(const std::string& opcode, const std::function<std::string(std::vector<std::string>)>& f) {
  return [=](const std::string& text) {
    std::string out;
    size_t done = 0;
    for (const Found& s : statements(text, opcode)) {
      out += text.substr(done, s.begin - done) + f(s.operands);
      done = s.end;
    }
    out += text.substr(done);
    LLAMA4RT_CHECK(kInternal, out != text, "nothing to change at ", opcode);
    return out;
  };
}
inline std::string joined(const std::string& opcode, const std::vector<std::string>& operands) {
  std::string text = opcode;
  for (size_t i = 0; i < operands.size(); ++i) text += (i > 0 ? ", " : " ") + operands[i];
  return text + ";";
}

inline Edit drop(const std::string& opcode) {
  return each(opcode, [](const auto&) { return std::string(); });
}
inline Edit rename(const std::string& opcode, const std::string& other) {
  return each(opcode, [=](const auto& operands) { return joined(other, operands); });
}
// Statements that have fewer operands, or no vector there, are another form of the opcode and stay as they are.
inline Edit swap(const std::string& opcode, size_t i, size_t j) {
  return each(opcode, [=](auto operands) {
    if (std::max(i, j) < operands.size()) std::swap(operands[i], operands[j]);
    return joined(opcode, operands);
  });
}
inline Edit set(const std::string& opcode, size_t i, const std::string& value) {
  return each(opcode, [=](auto operands) {
    if (i < operands.size()) operands[i] = value;
    return joined(opcode, operands);
  });
}
// Two elements of the vector that operand k is.
inline Edit swap_in(const std::string& opcode, size_t k, size_t i, size_t j) {
  return each(opcode, [=](auto operands) {
    const size_t open = k < operands.size() ? operands[k].find('{') : std::string::npos;
    if (open == std::string::npos) return joined(opcode, operands);
    const size_t close = operands[k].find('}');
    auto parts = operands_of(operands[k].substr(open + 1, close - open - 1));
    std::swap(parts.at(i), parts.at(j));
    std::string list;
    for (size_t p = 0; p < parts.size(); ++p) list += (p > 0 ? ", " : "") + parts[p];
    operands[k].replace(open + 1, close - open - 1, list);
    return joined(opcode, operands);
  });
}
// A statement that begins so, guard and all.
inline Edit cut(const std::string& beginning) {
  return [=](const std::string& text) {
    std::string out = text;
    size_t count = 0;
    for (size_t at = out.find(beginning); at != std::string::npos; at = out.find(beginning, at), ++count)
      out.erase(at, out.find(';', at) + 1 - at);
    LLAMA4RT_CHECK(kInternal, count > 0, "'", beginning, "' is not there");
    return out;
  };
}
// Any text.
inline Edit replace(const std::string& from, const std::string& to) {
  return [=](const std::string& text) {
    std::string out = text;
    size_t count = 0;
    for (size_t at = out.find(from); at != std::string::npos; at = out.find(from, at + to.size()), ++count)
      out.replace(at, from.size(), to);
    LLAMA4RT_CHECK(kInternal, count > 0, "'", from, "' is not there");
    return out;
  };
}

}  // namespace mutate

// What catches a fault in a file: the first line of a report, "wrong result", or nothing. `is_right` runs the kernel.
inline std::string caught_in(const std::string& file, const Edit& edit,
                             const std::function<bool()>& is_right) {
  const ptx_executor::Library::Changed changed(ptx_executor::library(), file, edit);
  try {
    return is_right() ? "" : "wrong result";
  } catch (const Error& e) {
    return std::string(e.what()).substr(0, std::string(e.what()).find('\n'));
  }
}

}  // namespace llama4rt::test
