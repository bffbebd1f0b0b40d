#include "base/json.h"

#include <string>
#include <utility>
#include <vector>

#include "test.h"

namespace llama4rt::test {
namespace {

json::Value parse(const std::string& text) { return json::parse(text, ErrorKind::kEngineFile, "text"); }

std::string error_of(const std::string& text) {
  try {
    parse(text);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST(values) {
  CHECK(parse("null").is_null());
  CHECK_EQ(*parse(" true ").boolean(), true);
  CHECK_EQ(*parse("\"a\\u00e9\\ud83d\\ude00\\n\"").string(), "a\xc3\xa9\xf0\x9f\x98\x80\n");
  CHECK_EQ(parse("[1, 2 ,3]").array()->size(), size_t(3));
  const json::Value object = parse(R"({"a": {"b": [true]}, "c": -0.5e3})");
  CHECK_EQ(object.find("c")->number()->real, -500.0);
  CHECK_EQ(object.find("c")->offset(), size_t(26));
  CHECK(object.find("a")->find("b") != nullptr);
  CHECK(object.find("d") == nullptr);
  CHECK(object.string() == nullptr);
}

TEST(numbers_are_exact_integers_when_they_can_be) {
  const auto integer = [](const std::string& text) {
    const json::Value value = parse(text);
    return value.number()->is_integer ? value.number()->integer : -77;
  };
  CHECK_EQ(integer("9223372036854775807"), INT64_MAX);
  CHECK_EQ(integer("-9223372036854775808"), INT64_MIN);
  CHECK_EQ(integer("9007199254740993"), 9007199254740993);
  CHECK_EQ(integer("9223372036854775808"), -77);  // a double, no integer
  CHECK_EQ(parse("9223372036854775808").number()->real, 9223372036854775808.0);
  CHECK_EQ(integer("1.0"), -77);
  CHECK_EQ(integer("1e2"), -77);
  CHECK_EQ(integer("-0"), 0);
}

TEST(refusals) {
  const struct {
    const char* text;
    const char* expected;
  } kBad[] = {
      {"", "ends where a value should be"},
      {" ", "ends where a value should be at byte 1"},
      {"nul", "expected \"null\""},
      {"nulll", "unexpected text"},
      {"True", "expected a JSON value"},
      {"{", "expected a quoted key"},
      {"{\"a\"", "expected \":\""},
      {"{\"a\":1", "ends inside an object"},
      {"{\"a\":1,}", "expected a quoted key at byte 7"},
      {"{\"a\":1 \"b\":2}", "expected \",\""},
      {"{a:1}", "expected a quoted key"},
      {"{\"a\":1,\"a\":2}", "duplicate key \"a\" at byte 7"},
      {"{\"a\":1,\"\\u0061\":2}", "duplicate key"},
      {"[1,]", "expected a JSON value"},
      {"[1 2]", "expected \",\""},
      {"[", "ends where a value"},
      {"[1", "ends inside an array"},
      {"01", "leading zero"},
      {"-01", "leading zero"},
      {"-", "expected a JSON value"},
      {"+1", "expected a JSON value"},
      {".5", "expected a JSON value"},
      {"1.", "expected a digit"},
      {"1e", "expected a digit"},
      {"1e+", "expected a digit"},
      {"0x10", "unexpected text"},
      {"NaN", "expected a JSON value"},
      {"Infinity", "expected a JSON value"},
      {"1e400", "outside the range of double"},
      {"1e-400", "outside the range of double"},
      {"\"", "ends inside a string"},
      {"\"\\", "ends inside a string"},
      {"\"\\x\"", "unknown escape"},
      {"\"\\u12x4\"", "four hexadecimal digits"},
      {"\"\\u12", "ends inside a \\u escape"},
      {"\"\\ud800\"", "high surrogate without"},
      {"\"\\ud800\\u0041\"", "high surrogate without"},
      {"\"\\udc00\"", "low surrogate without"},
      {"\"\n\"", "control character"},
      {"\"\x80\"", "invalid UTF-8"},
      {"\"\xc0\xaf\"", "invalid UTF-8"},
      {"\"\xe0\x80\x80\"", "invalid UTF-8"},
      {"\"\xed\xa0\x80\"", "invalid UTF-8"},
      {"\"\xf4\x90\x80\x80\"", "invalid UTF-8"},
      {"\"\xf0\x9f\x98", "invalid UTF-8"},
      {"1 //", "unexpected text"},
      {"\xef\xbb\xbf{}", "expected a JSON value"},
  };
  for (const auto& bad : kBad) {
    SCOPE("text: ", bad.text, ", message: ", error_of(bad.text));
    CHECK(error_of(bad.text).find(bad.expected) != std::string::npos);
    CHECK_THROWS(kEngineFile, parse(bad.text));
  }
}

TEST(limits) {
  CHECK_EQ(error_of(std::string(64, '[') + std::string(64, ']')), "");
  CHECK(error_of(std::string(66, '[')).find("deeper than 64") != std::string::npos);
  const json::Limits few = {.max_bytes = 10, .max_values = 3, .max_depth = 1};
  CHECK_THROWS(kConfig, json::parse("[1,2,3,4]", ErrorKind::kConfig, "x", few));
  CHECK_THROWS(kConfig, json::parse("[1,        2]", ErrorKind::kConfig, "x", few));
  CHECK_THROWS(kConfig, json::parse("[[[1]]]", ErrorKind::kConfig, "x", few));
  std::string wide = "{";  // large objects find duplicates by another way
  for (int i = 0; i < 1000; ++i) wide += "\"" + std::to_string(i) + "\":0,";
  CHECK_EQ(error_of(wide + "\"x\":1}"), "");
  CHECK(error_of(wide + "\"7\":1}").find("duplicate key \"7\"") != std::string::npos);
}

TEST(what_is_written_reads_back) {
  json::Array list;
  for (const double real : {0.1, 500000.0, 1e-300}) list.emplace_back(real);
  list.emplace(list.begin(), int64_t(9007199254740993));
  list.emplace(list.begin(), 3);
  list.emplace(list.begin(), true);
  list.emplace(list.begin());
  json::Object object;
  object.emplace_back("text", "quote \" backslash \\ newline \n tab \t bell \a euro \xe2\x82\xac");
  object.emplace_back("list", std::move(list));
  object.emplace_back("empty", json::Object());
  const json::Value value = std::move(object);
  const std::string text = json::write(value);
  CHECK_EQ(json::write(parse(text)), text);
  CHECK_EQ(text,
           "{\"text\":\"quote \\\" backslash \\\\ newline \\n tab \\t bell \\u0007 euro \xe2\x82\xac\","
           "\"list\":[null,true,3,9007199254740993,0.1,5e+05,1e-300],\"empty\":{}}");
  CHECK_THROWS(kInternal, json::write(1.0 / 0.0));
  CHECK_THROWS(kInternal, json::quote("\xff"));
}

TEST(untrusted_text_is_made_printable) {
  CHECK_EQ(json::printable("a\nb\x1b[31m"), "a\\x0ab\\x1b[31m");
  CHECK_EQ(json::printable("\xff\xfe"), "\\xff\\xfe");
  CHECK_EQ(json::printable("\xc3\xa9"), "\xc3\xa9");
  CHECK_EQ(json::printable(std::string(1000, 'x')).size(), size_t(67));
}

}  // namespace llama4rt::test
