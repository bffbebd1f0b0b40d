#include "base/json_shape.h"

#include <string>
#include <utility>
#include <vector>

#include "test.h"

namespace llama4rt::test {
namespace {

using Members = std::vector<std::pair<std::string, std::string>>;

json::Shape shape(const std::string& text) { return json::shape_of(text, 100); }

Members members(const std::string& text) {
  Members out;
  for (const json::Member& m : shape(text).members)
    out.emplace_back(text.substr(m.key_begin, m.key_end - m.key_begin),
                     text.substr(m.value_begin, m.value_end - m.value_begin));
  return out;
}

}  // namespace

TEST(depth_and_counts) {
  CHECK_EQ(shape("1").depth, 0);
  CHECK_EQ(shape("[]").depth, 1);
  CHECK_EQ(shape(R"({"a": [{"b": [[1]]}]})").depth, 5);
  CHECK_EQ(shape(R"({"a": [1, 2, 3], "b": "x"})").objects, 5);
  CHECK_EQ(shape(R"({"a": [1, 2, 3], "b": "x"})").values, 5);
  CHECK_EQ(shape(std::string(1 << 20, '[')).depth, 1 << 20);
}

TEST(strings_hide_what_they_hold) {
  CHECK_EQ(shape(R"({"a": "[[[{{{,,,:\"[[["})").depth, 1);
  CHECK_EQ(shape(R"(["\\", [0]])").depth, 2);
  CHECK_EQ(shape(R"(["\\\"[[", [0]])").depth, 2);
  CHECK_EQ(shape(R"(["\\\\", [[0]]])").depth, 3);
}

TEST(the_longest_text) {
  CHECK_EQ(shape(R"(["abc", {"abcdef": "ab"}, ""])").text, 6);
  CHECK_EQ(shape(R"(["data:abcdefgh", "http://a"])").text, 8);
  CHECK_EQ(shape(R"(["\u0041\u0042"])").text, 2);
  CHECK_EQ(shape("\"").text, 0);
  CHECK_EQ(shape("[1, 2]").text, 0);
}

TEST(members_of_the_outermost_object) {
  CHECK(
      members(R"( {"a" : 1 , "b":"x,y" ,"c":{"d":[1,{"e":2}]}, "\u0066":null} )") ==
      (Members{
          {"\"a\"", "1"}, {"\"b\"", "\"x,y\""}, {"\"c\"", R"({"d":[1,{"e":2}]})"}, {"\"\\u0066\"", "null"}}));
  CHECK(members("{}").empty());
  CHECK(members(R"([{"a": 1}])").empty());
  CHECK_EQ(json::shape_of(R"({"a":1,"b":2,"c":3})", 2).members.size(), size_t(2));
}

TEST(text_that_is_no_json_is_survived) {
  for (const char* text : {"", "{", "}", "]]]]{\"a\":1}", "{\"a", "{\"a\\", "{\"a\":", "{:1}", "{,,,}",
                           "{\"a\" \"b\":1}", "{\"a\":}", "{\"a\":1", "\"", "\\", "{\"a\":1]", "[}{]\"a\":,"})
    for (const json::Member& m : shape(text).members) {
      const size_t size = std::string(text).size();
      CHECK(m.key_begin <= m.key_end && m.key_end <= size && m.value_begin <= m.value_end &&
            m.value_end <= size);
    }
}

}  // namespace llama4rt::test
