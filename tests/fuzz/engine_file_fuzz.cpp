// Any bytes either open as an engine file, and then every view it hands out can be read to its end, or end
// in an Error. The mutations repair the header checksum most of the time, so that the checks behind it are
// reached.
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "base/json.h"
#include "base/temp_dir.h"
#include "format/engine_file.h"
#include "format/sample_engine.h"
#include "fuzz_main.h"
#include "model/vision_weights.h"
#include "model/weights.h"
#include "weights/layout.h"

namespace {

using namespace llama4rt;

// Bytes as a file that exists in memory only.
class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size) : fd_(memfd_create("engine", MFD_CLOEXEC)) {
    if (fd_ < 0 || write(fd_, data, size) != ssize_t(size)) std::abort();
  }
  ~MemoryFile() { close(fd_); }
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

// Touches the corners of every matrix and the ends of every stored tensor.
void read_everything(const EngineFile& file) {
  volatile float sink = 0;
  for (const auto& [name, info] : file.weights()) {
    const Weight stack = file.weight(name);
    for (const int64_t e : {int64_t(0), stack.num_experts - 1}) {
      const Weight w = expert_view(stack, e);
      for (const int64_t n : {int64_t(0), w.n / 2, w.n - 1})
        for (const int64_t k : {int64_t(0), w.k / 2, w.k - 1}) sink = sink + weight_value(w, n, k);
    }
  }
  for (const StoredTensor& tensor : file.tensors()) {
    const auto bytes = file.bytes(tensor);
    if (!bytes.empty()) sink = sink + float(uint8_t(bytes.front())) + float(uint8_t(bytes.back()));
  }
  for (const std::string& name : file.file_names()) static_cast<void>(file.file(name));
  static_cast<void>(file.verify(1));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const MemoryFile memory(data, size);
  try {
    const EngineFile file(memory.path());
    read_everything(file);
    try {
      if (file.config().vision) static_cast<void>(VisionWeights::load(file));
      static_cast<void>(Llama4Weights::load(file));
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kEngineFile) std::abort();
    }
    return 0;
  } catch (const Error& error) {
    const bool expected = error.kind() == ErrorKind::kEngineFile || error.kind() == ErrorKind::kConfig;
    if (!expected || !json::valid_utf8(error.what())) std::abort();
    return -1;
  }
}

#ifndef LLAMA4RT_LIBFUZZER
namespace {

using fuzz::Random;

// A part of the header: the whole text, or the JSON inside one metadata value, without its escapes.
void mutate_header(std::string& header, Random& random) {
  static constexpr std::string_view kNested[] = {"config", "weights", "checksums", "files"};
  if (random() % 2 == 0) return fuzz::mutate_json(header, random);
  const std::string key = "\"" + std::string(kNested[random() % 4]) + "\":\"";
  const size_t begin = header.find(key);
  if (begin == std::string::npos) return fuzz::mutate_json(header, random);
  std::string inner;
  size_t at = begin + key.size();
  for (; at < header.size() && header[at] != '"'; ++at) {
    if (header[at] == '\\') ++at;
    if (at < header.size()) inner += header[at];
  }
  fuzz::mutate_json(inner, random);
  std::string quoted;
  try {
    quoted = json::quote(inner);
  } catch (const Error&) {
    return;  // no longer UTF-8; the outer mutations cover that
  }
  header.replace(begin + key.size() - 1, at + 1 - (begin + key.size() - 1), quoted);
}

void mutate_engine(std::string& input, Random& random) {
  const bool framed = input.size() >= 8 && test::header_length(input) <= input.size() - 8;
  if (!framed || random() % 8 == 0) {
    fuzz::mutate_bytes(input, random);
    if (random() % 2 == 0) test::seal(input);
    return;
  }
  std::string header = test::header_text(input), data = test::payload(input);
  for (size_t i = 1 + fuzz::below(random, 2); i > 0; --i) mutate_header(header, random);
  if (random() % 16 == 0) fuzz::mutate_bytes(data, random);
  input = test::assemble(header, data);
}

}  // namespace

int main(int argc, char** argv) {
  const test::TempDir dir;
  test::write_sample_engine(dir / "text.l4e");
  test::write_sample_engine(dir / "vision.l4e", 1, true);
  return fuzz::run(argc, argv, {test::read_file(dir / "text.l4e"), test::read_file(dir / "vision.l4e")},
                   mutate_engine);
}
#endif
