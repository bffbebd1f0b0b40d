// json_shape: how a JSON text is built, in one pass and without keeping any of it: what a server must know before it
// lets a library make objects of a stranger's text. It judges nothing: of text that is no JSON it says something, in
// the same time, and the parser that follows refuses it.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace llama4rt::json {

// One member of the outermost object, as places in the text.
struct Member {
  size_t key_begin = 0, key_end = 0;      // with the quotes
  size_t value_begin = 0, value_end = 0;  // without white space around it
};

struct Shape {
  int64_t depth = 0;  // how deep brackets nest
  int64_t objects =
      0;  // containers, strings and keys: what takes a hundred bytes in Python, however short it is
  int64_t values = 0;  // commas, and one for each container: at least as many as there are numbers
  int64_t text =
      0;  // bytes that the longest string surely has as UTF-8; strings that begin with data: do not count
  std::vector<Member> members;  // the first `max_members`
};

Shape shape_of(std::string_view text, size_t max_members);

}  // namespace llama4rt::json
