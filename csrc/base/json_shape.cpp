#include "base/json_shape.h"

#include <algorithm>
#include <cstring>

namespace llama4rt::json {
namespace {

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

// After the closing quote of the string whose opening quote is at `begin`, or the end of the text.
size_t string_end(std::string_view text, size_t begin) {
  for (size_t i = begin + 1; i < text.size(); ++i) {
    const auto* const quote = static_cast<const char*>(std::memchr(text.data() + i, '"', text.size() - i));
    if (!quote) return text.size();
    const auto end = size_t(quote - text.data());
    size_t slashes = 0;
    while (end - slashes > i && text[end - slashes - 1] == '\\') ++slashes;
    if (slashes % 2 == 0) return end + 1;
    i = end;
  }
  return text.size();
}

// Bytes as UTF-8, or fewer, of a string from its opening quote to behind the closing one. An escape makes at least one
// byte of six.
int64_t text_bytes(std::string_view quoted) {
  const std::string_view inside = quoted.substr(1, quoted.size() > 2 ? quoted.size() - 2 : 0);
  if (inside.starts_with("data:")) return 0;
  const auto size = int64_t(inside.size());
  return inside.find('\\') == inside.npos ? size : size / 6;
}

}  // namespace

Shape shape_of(std::string_view text, size_t max_members) {
  Shape shape;
  int64_t depth = 0;
  bool in_members = false;  // the outermost value is an object
  bool has_key = false;     // `member` waits for its value
  Member member;
  const auto end_member = [&](size_t end) {
    if (!has_key || member.value_begin == 0) return;
    while (end > member.value_begin && is_space(text[end - 1])) --end;
    member.value_end = end;
    if (shape.members.size() < max_members) shape.members.push_back(member);
    has_key = false;
    member = {};
  };
  const auto begin_value = [&](size_t at) {
    if (depth == 1 && has_key && member.value_begin == 0) member.value_begin = at;
  };
  for (size_t i = 0; i < text.size(); ++i) {
    switch (text[i]) {
      case '"': {
        const size_t end = string_end(text, i);
        ++shape.objects;
        shape.text = std::max(shape.text, text_bytes(text.substr(i, end - i)));
        if (depth == 1 && in_members && !has_key)
          member.key_begin = i, member.key_end = end;
        else
          begin_value(i);
        i = end - 1;
        break;
      }
      case ':':
        if (depth == 1 && in_members) has_key = member.key_end > 0;
        break;
      case '{':
      case '[':
        begin_value(i);
        if (depth == 0) in_members = text[i] == '{';
        ++shape.objects;
        ++shape.values;
        shape.depth = std::max(shape.depth, ++depth);
        break;
      case '}':
      case ']':
        if (depth == 1) end_member(i);
        --depth;
        break;
      case ',':
        ++shape.values;
        if (depth == 1) end_member(i);
        break;
      case ' ':
      case '\n':
      case '\r':
      case '\t':
        break;
      default:
        begin_value(i);
    }
  }
  return shape;
}

}  // namespace llama4rt::json
