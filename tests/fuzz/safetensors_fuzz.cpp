// Any bytes either are a valid container, whose ranges then cover the payload exactly, or end in an Error.
#include <cstring>
#include <span>
#include <string>

#include "base/json.h"
#include "format/safetensors.h"
#include "fuzz_main.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace llama4rt;
  const auto file = std::as_bytes(std::span(data, size));
  try {
    const SafetensorsHeader header(file, "input", ErrorKind::kCheckpoint, SafetensorsLimits{});
    uint64_t at = header.data_offset();
    for (const StoredTensor& tensor : header.tensors()) {
      if (tensor.offset != at || header.find(tensor.name) != &tensor) std::abort();
      at += tensor.bytes;
    }
    if (at != size) std::abort();
    return 0;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCheckpoint || !json::valid_utf8(error.what())) std::abort();
    return -1;
  }
}

#ifndef LLAMA4RT_LIBFUZZER
namespace {

// header length, header, payload
std::string frame(const std::string& header, const std::string& payload) {
  std::string file(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(file.data(), &length, 8);
  return file + header + payload;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace llama4rt::fuzz;
  const std::string seed = frame(
      R"({"__metadata__":{"format":"pt","x":"y"},"a.weight":{"dtype":"BF16","shape":[4,8],"data_offsets":[0,64]},)"
      R"("b":{"dtype":"F32","shape":[],"data_offsets":[64,68]},"c":{"dtype":"F4","shape":[2,3],"data_offsets":[68,71]},)"
      R"("d":{"dtype":"U8","shape":[0],"data_offsets":[68,68]}})",
      std::string(71, 'p'));
  return run(argc, argv, {seed}, [](std::string& input, Random& random) {
    uint64_t length = 0;
    std::memcpy(&length, input.data(), std::min<size_t>(8, input.size()));
    if (random() % 8 == 0 || input.size() < 8 || length > input.size() - 8)
      return mutate_bytes(input, random);
    std::string header = input.substr(8, length);
    for (size_t i = 1 + below(random, 3); i > 0; --i) mutate_json(header, random);
    input = frame(header, input.substr(8 + length));
  });
}
#endif
