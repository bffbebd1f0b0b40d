// Any text either parses, and then survives a round trip through the writer, or ends in an Error.
#include <string>

#include "base/json.h"
#include "fuzz_main.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace llama4rt;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const json::Value value = json::parse(text, ErrorKind::kRequest, "input");
    const std::string written = json::write(value);
    if (json::write(json::parse(written, ErrorKind::kRequest, "again")) != written) std::abort();
    return 0;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kRequest || !json::valid_utf8(error.what())) std::abort();
    return -1;  // for libFuzzer: not worth keeping
  }
}

#ifndef LLAMA4RT_LIBFUZZER
int main(int argc, char** argv) {
  using namespace llama4rt::fuzz;
  return run(
      argc, argv,
      {R"({"a":[1,-2.5e3,0.0625,true,false,null,"x\u00e9\ud83d\ude00\\\"\n"],"b":{"c":{"d":[[],{}]}},"e":""})",
       R"([9007199254740993,1e-300,"\u0000",{"k":{"k":{"k":1}}}])", "\"\xe2\x82\xac\""},
      [](std::string& input, Random& random) {
        for (size_t i = 1 + below(random, 4); i > 0; --i) mutate_json(input, random);
      });
}
#endif
