// A strict JSON reader and writer (RFC 8259) for text that strangers wrote: engine file headers, checkpoint
// headers, configs. Everything the grammar leaves open is refused or bounded: nesting, number of values,
// invalid UTF-8, lone surrogates, numbers that overflow, duplicate keys. It is not a streaming parser and
// keeps no comments or formatting.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"

namespace llama4rt::json {

class Value;
using Array = std::vector<Value>;
using Object = std::vector<std::pair<std::string, Value>>;  // in the order of the text

struct Number {
  double real = 0;
  int64_t integer = 0;      // exact, when is_integer
  bool is_integer = false;  // written without fraction and exponent, and within int64
};

enum class Type : uint8_t { kNull, kBool, kNumber, kString, kArray, kObject };

class Value {
 public:
  Value() = default;
  // Moved only: where memory runs out in the middle of a copy, libstdc++ 12 destroys a variant that was never made.
  Value(Value&&) noexcept = default;
  Value& operator=(Value&&) noexcept = default;
  Value(bool b) : data_(b) {}
  Value(double real) : data_(Number{real, 0, false}) {}
  Value(int64_t integer) : data_(Number{double(integer), integer, true}) {}
  Value(int integer) : Value(int64_t(integer)) {}
  Value(std::string text) : data_(std::move(text)) {}
  Value(const char* text) : data_(std::string(text)) {}
  Value(Number number) : data_(number) {}
  Value(Array items) : data_(std::move(items)) {}
  Value(Object members) : data_(std::move(members)) {}

  Type type() const { return Type(data_.index()); }
  bool is_null() const { return type() == Type::kNull; }
  // Null when the value has another type.
  const bool* boolean() const { return std::get_if<bool>(&data_); }
  const Number* number() const { return std::get_if<Number>(&data_); }
  const std::string* string() const { return std::get_if<std::string>(&data_); }
  const Array* array() const { return std::get_if<Array>(&data_); }
  const Object* object() const { return std::get_if<Object>(&data_); }
  // The member `key` of an object; null when there is none. Linear: for small objects.
  const Value* find(std::string_view key) const;

  size_t offset() const { return offset_; }  // byte offset of the value's first character in the parsed text

 private:
  friend class Parser;
  std::variant<std::monostate, bool, Number, std::string, Array, Object> data_;
  size_t offset_ = 0;
};

struct Limits {
  size_t max_bytes = size_t(16) << 20;
  size_t max_values = size_t(1) << 20;  // values and keys together; bounds memory to about 64 bytes each
  int max_depth = 64;
};

// Throws Error(kind) with "<what>: <problem> at byte <offset>".
Value parse(std::string_view text, ErrorKind kind, std::string_view what, const Limits& limits = {});

// Compact text (no spaces), keys in the order given; parse(write(v)) == v. Non-finite numbers throw
// kInternal.
std::string write(const Value& value);
// `text` as a JSON string with its quotes. Throws kInternal when it is not valid UTF-8.
std::string quote(std::string_view text);

bool valid_utf8(std::string_view text);
// "null", "true", "a number", ... for messages.
std::string_view type_name(Type type);
// A short printable form of untrusted text for messages: control characters escaped, cut at 64 bytes.
std::string printable(std::string_view text);

}  // namespace llama4rt::json
