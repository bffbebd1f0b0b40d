#include "base/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_set>

namespace llama4rt::json {
namespace {

// Length of the valid UTF-8 sequence at p (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF), or
// 0.
size_t utf8_sequence(const char* p, const char* end) {
  const auto byte = [&](ptrdiff_t i) { return static_cast<unsigned char>(p[i]); };
  const auto continues = [&](ptrdiff_t i) { return p + i < end && (byte(i) & 0xc0) == 0x80; };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xc2) return 0;
  if (lead < 0xe0) return continues(1) ? 2 : 0;
  if (lead < 0xf0) {
    if (!continues(1) || !continues(2)) return 0;
    if (lead == 0xe0 && byte(1) < 0xa0) return 0;
    if (lead == 0xed && byte(1) >= 0xa0) return 0;
    return 3;
  }
  if (lead > 0xf4 || !continues(1) || !continues(2) || !continues(3)) return 0;
  if (lead == 0xf0 && byte(1) < 0x90) return 0;
  if (lead == 0xf4 && byte(1) >= 0x90) return 0;
  return 4;
}

void append_utf8(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += char(code);
  } else if (code < 0x800) {
    out += char(0xc0 | code >> 6);
    out += char(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    out += char(0xe0 | code >> 12);
    out += char(0x80 | (code >> 6 & 0x3f));
    out += char(0x80 | (code & 0x3f));
  } else {
    out += char(0xf0 | code >> 18);
    out += char(0x80 | (code >> 12 & 0x3f));
    out += char(0x80 | (code >> 6 & 0x3f));
    out += char(0x80 | (code & 0x3f));
  }
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

class Parser {
 public:
  Parser(std::string_view text, ErrorKind kind, std::string_view what, const Limits& limits)
      : begin_(text.data()),
        at_(begin_),
        end_(begin_ + text.size()),
        kind_(kind),
        what_(what),
        limits_(limits) {}

  Value document() {
    if (size_t(end_ - begin_) > limits_.max_bytes)
      throw Error(kind_, error_text(what_, ": JSON text of ", end_ - begin_, " bytes; at most ",
                                    limits_.max_bytes, " are allowed"));
    skip_space();
    Value value = parse_value(0);
    skip_space();
    if (at_ != end_) fail("unexpected text after the JSON value");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& problem) const {
    throw Error(kind_, error_text(what_, ": ", problem, " at byte ", at_ - begin_));
  }

  void skip_space() {
    while (at_ < end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
  }

  void expect(std::string_view word) {
    if (size_t(end_ - at_) < word.size() || std::string_view(at_, word.size()) != word)
      fail(error_text("expected \"", word, "\""));
    at_ += word.size();
  }

  void count_value() {
    if (++values_ > limits_.max_values)
      fail(error_text("more than ", limits_.max_values, " JSON values and keys"));
  }

  Value parse_value(int depth) {
    if (depth > limits_.max_depth) fail(error_text("JSON nested deeper than ", limits_.max_depth));
    if (at_ == end_) fail("JSON text ends where a value should be");
    count_value();
    const size_t offset = size_t(at_ - begin_);
    Value value;
    switch (*at_) {
      case '{':
        value.data_ = parse_object(depth);
        break;
      case '[':
        value.data_ = parse_array(depth);
        break;
      case '"':
        value.data_ = parse_string();
        break;
      case 't':
        expect("true");
        value.data_ = true;
        break;
      case 'f':
        expect("false");
        value.data_ = false;
        break;
      case 'n':
        expect("null");
        break;
      default:
        value.data_ = parse_number();
    }
    value.offset_ = offset;
    return value;
  }

  Object parse_object(int depth) {
    Object members;
    ++at_;
    skip_space();
    if (at_ < end_ && *at_ == '}') {
      ++at_;
      return members;
    }
    std::unordered_set<std::string> keys;  // filled only when the object is large
    while (true) {
      if (at_ == end_ || *at_ != '"') fail("expected a quoted key");
      count_value();
      const char* const key_at = at_;
      std::string key = parse_string();
      if (!is_new_key(members, keys, key)) {
        at_ = key_at;
        fail(error_text("duplicate key \"", printable(key), "\""));
      }
      skip_space();
      expect(":");
      skip_space();
      Value value = parse_value(depth + 1);
      members.emplace_back(std::move(key), std::move(value));
      skip_space();
      if (at_ == end_) fail("JSON text ends inside an object");
      if (*at_ == '}') {
        ++at_;
        return members;
      }
      expect(",");
      skip_space();
    }
  }

  static bool is_new_key(const Object& members, std::unordered_set<std::string>& keys,
                         const std::string& key) {
    constexpr size_t kLarge = 16;
    if (members.size() < kLarge)
      return std::none_of(members.begin(), members.end(), [&](const auto& m) { return m.first == key; });
    if (keys.empty())
      for (const auto& member : members) keys.insert(member.first);
    return keys.insert(key).second;
  }

  Array parse_array(int depth) {
    Array items;
    ++at_;
    skip_space();
    if (at_ < end_ && *at_ == ']') {
      ++at_;
      return items;
    }
    while (true) {
      items.push_back(parse_value(depth + 1));
      skip_space();
      if (at_ == end_) fail("JSON text ends inside an array");
      if (*at_ == ']') {
        ++at_;
        return items;
      }
      expect(",");
      skip_space();
    }
  }

  uint32_t parse_hex4() {
    if (end_ - at_ < 4) fail("JSON text ends inside a \\u escape");
    uint32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = *at_;
      const int digit = is_digit(c)              ? c - '0'
                        : (c >= 'a' && c <= 'f') ? c - 'a' + 10
                        : (c >= 'A' && c <= 'F') ? c - 'A' + 10
                                                 : -1;
      if (digit < 0) fail("a \\u escape needs four hexadecimal digits");
      code = code << 4 | uint32_t(digit);
    }
    return code;
  }

  void parse_escape(std::string& out) {
    if (at_ == end_) fail("JSON text ends inside a string");
    switch (*at_++) {
      case '"':
        out += '"';
        return;
      case '\\':
        out += '\\';
        return;
      case '/':
        out += '/';
        return;
      case 'b':
        out += '\b';
        return;
      case 'f':
        out += '\f';
        return;
      case 'n':
        out += '\n';
        return;
      case 'r':
        out += '\r';
        return;
      case 't':
        out += '\t';
        return;
      case 'u': {
        uint32_t code = parse_hex4();
        if (code >= 0xdc00 && code <= 0xdfff) fail("a low surrogate without its high one");
        if (code >= 0xd800 && code <= 0xdbff) {
          if (end_ - at_ < 2 || at_[0] != '\\' || at_[1] != 'u') fail("a high surrogate without its low one");
          at_ += 2;
          const uint32_t low = parse_hex4();
          if (low < 0xdc00 || low > 0xdfff) fail("a high surrogate without its low one");
          code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        append_utf8(out, code);
        return;
      }
      default:
        --at_;
        fail("unknown escape in a string");
    }
  }

  std::string parse_string() {
    std::string out;
    ++at_;
    while (true) {
      // Plain ASCII first: nearly all of every string. (char is unsigned on Arm.)
      const char* const run = at_;
      while (at_ < end_ && static_cast<signed char>(*at_) >= 0x20 && *at_ != '"' && *at_ != '\\') ++at_;
      out.append(run, at_);
      if (at_ == end_) fail("JSON text ends inside a string");
      const char c = *at_;
      if (c == '"') {
        ++at_;
        return out;
      }
      if (c == '\\') {
        ++at_;
        parse_escape(out);
      } else if (static_cast<unsigned char>(c) < 0x20) {
        fail("a control character inside a string");
      } else {
        const size_t length = utf8_sequence(at_, end_);
        if (length == 0) fail("invalid UTF-8 in a string");
        out.append(at_, length);
        at_ += length;
      }
    }
  }

  void digits() {
    if (at_ == end_ || !is_digit(*at_)) fail("expected a digit");
    while (at_ < end_ && is_digit(*at_)) ++at_;
  }

  Number parse_number() {
    const char* const start = at_;
    bool integral = true;
    if (*at_ == '-') ++at_;
    if (at_ == end_ || !is_digit(*at_)) {
      at_ = start;
      fail("expected a JSON value");
    }
    if (*at_ == '0' && at_ + 1 < end_ && is_digit(at_[1])) fail("a number with a leading zero");
    digits();
    if (at_ < end_ && *at_ == '.') {
      integral = false;
      ++at_;
      digits();
    }
    if (at_ < end_ && (*at_ == 'e' || *at_ == 'E')) {
      integral = false;
      ++at_;
      if (at_ < end_ && (*at_ == '+' || *at_ == '-')) ++at_;
      digits();
    }
    Number number;
    if (integral) {
      const auto [p, status] = std::from_chars(start, at_, number.integer);
      number.is_integer = status == std::errc() && p == at_;
    }
    const auto [p, status] = std::from_chars(start, at_, number.real);
    // Underflow is reported like overflow: no real file holds a number too small for a double.
    if (status != std::errc() || p != at_) {
      at_ = start;
      fail("a number outside the range of double");
    }
    if (!number.is_integer) number.integer = 0;
    return number;
  }

  const char* begin_;
  const char* at_;
  const char* end_;
  ErrorKind kind_;
  std::string_view what_;
  const Limits& limits_;
  size_t values_ = 0;
};

const Value* Value::find(std::string_view key) const {
  if (const Object* members = object())
    for (const auto& [name, value] : *members)
      if (name == key) return &value;
  return nullptr;
}

Value parse(std::string_view text, ErrorKind kind, std::string_view what, const Limits& limits) {
  return Parser(text, kind, what, limits).document();
}

bool valid_utf8(std::string_view text) {
  const char* p = text.data();
  const char* const end = p + text.size();
  while (p < end) {
    const size_t length = utf8_sequence(p, end);
    if (length == 0) return false;
    p += length;
  }
  return true;
}

std::string_view type_name(Type type) {
  switch (type) {
    case Type::kNull:
      return "null";
    case Type::kBool:
      return "a boolean";
    case Type::kNumber:
      return "a number";
    case Type::kString:
      return "a string";
    case Type::kArray:
      return "a list";
    case Type::kObject:
      return "an object";
  }
  return "?";
}

std::string printable(std::string_view text) {
  constexpr size_t kMaxBytes = 64;
  const bool readable = valid_utf8(text);
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (out.size() >= kMaxBytes && (c & 0xc0) != 0x80) return out + "...";
    if (c < 0x20 || c == 0x7f || (c >= 0x80 && !readable)) {
      constexpr char kHex[] = "0123456789abcdef";
      out += "\\x";
      out += kHex[c >> 4];
      out += kHex[c & 15];
    } else {
      out += char(c);
    }
  }
  return out;
}

std::string quote(std::string_view text) {
  if (!valid_utf8(text)) throw Error(ErrorKind::kInternal, "JSON string is not valid UTF-8");
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\r') {
      out += "\\r";
    } else if (static_cast<unsigned char>(c) < 0x20) {
      constexpr char kHex[] = "0123456789abcdef";
      out += "\\u00";
      out += kHex[c >> 4];
      out += kHex[c & 15];
    } else {
      out += c;
    }
  }
  return out + "\"";
}

namespace {

void append(std::string& out, const Value& value) {
  switch (value.type()) {
    case Type::kNull:
      out += "null";
      return;
    case Type::kBool:
      out += *value.boolean() ? "true" : "false";
      return;
    case Type::kNumber: {
      const Number& n = *value.number();
      if (!n.is_integer && !std::isfinite(n.real)) throw Error(ErrorKind::kInternal, "JSON has no infinity");
      char text[40];
      const auto done = n.is_integer ? std::to_chars(text, text + sizeof text, n.integer)
                                     : std::to_chars(text, text + sizeof text, n.real);
      out.append(text, done.ptr);
      // Keeps reals reals: 1e+05 has an exponent, 500000 would be read back as an integer.
      if (!n.is_integer && std::none_of(text, done.ptr, [](char c) { return c == '.' || c == 'e'; }))
        out += ".0";
      return;
    }
    case Type::kString:
      out += quote(*value.string());
      return;
    case Type::kArray: {
      out += '[';
      bool first = true;
      for (const Value& item : *value.array()) {
        if (!first) out += ',';
        first = false;
        append(out, item);
      }
      out += ']';
      return;
    }
    case Type::kObject: {
      out += '{';
      bool first = true;
      for (const auto& [key, member] : *value.object()) {
        if (!first) out += ',';
        first = false;
        out += quote(key);
        out += ':';
        append(out, member);
      }
      out += '}';
      return;
    }
  }
}

}  // namespace

std::string write(const Value& value) {
  std::string out;
  append(out, value);
  return out;
}

}  // namespace llama4rt::json
