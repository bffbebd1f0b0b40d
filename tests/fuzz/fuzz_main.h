// A driver for LLVMFuzzerTestOneInput with mutations of our own, so that a plain compiler with sanitizers can
// run the targets: PROGRAM [--runs N] [--seed S] [SEED_FILE...]. Without runs every file is tried once, which
// is how a saved finding is replayed. Built with -DLLAMA4RT_LIBFUZZER the targets are libFuzzer's and this
// driver is left out. A crash leaves the guilty input in fuzz_crash.bin of the current directory.
#pragma once

#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

// Present in sanitizer builds only.
extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

namespace llama4rt::fuzz {

using Random = std::mt19937_64;

inline size_t below(Random& random, size_t limit) { return limit == 0 ? 0 : size_t(random() % limit); }

// Byte-level mutations that know nothing of the format.
inline void mutate_bytes(std::string& text, Random& random) {
  const size_t at = below(random, text.size() + 1);
  switch (random() % 7) {
    case 0:
      if (at < text.size()) text[at] = char(text[at] ^ (1 << random() % 8));
      break;
    case 1:
      if (at < text.size()) text[at] = char(random());
      break;
    case 2:
      text.insert(at, 1, char(random()));
      break;
    case 3:
      text.erase(at, 1 + below(random, 16));
      break;
    case 4:
      text.resize(at);
      break;
    case 5: {  // repeat a piece elsewhere
      const std::string piece = text.substr(at, 1 + below(random, 64));
      text.insert(below(random, text.size() + 1), piece);
      break;
    }
    default:
      if (at + 8 <= text.size())
        for (size_t i = 0; i < 8; ++i) text[at + i] = char(random() % 3 == 0 ? 0xff : 0);
  }
}

// Mutations of JSON text: numbers become awkward ones, tokens are swapped, removed and doubled.
inline void mutate_json(std::string& text, Random& random) {
  static constexpr std::string_view kNumbers[] = {"0",
                                                  "-1",
                                                  "1",
                                                  "2",
                                                  "3",
                                                  "16",
                                                  "31",
                                                  "33",
                                                  "64",
                                                  "65",
                                                  "4096",
                                                  "65535",
                                                  "65536",
                                                  "2147483647",
                                                  "2147483648",
                                                  "4294967296",
                                                  "281474976710656",
                                                  "9223372036854775807",
                                                  "18446744073709551615",
                                                  "1e308",
                                                  "1e999",
                                                  "0.5",
                                                  "-0",
                                                  "1e-400"};
  static constexpr std::string_view kTokens[] = {"null",   "true",    "[]",       "{}",      "\"\"",
                                                 "\"U8\"", "\"F32\"", "\"BF16\"", "[0,0]",   ",",
                                                 ":",      "}",       "]",        "\\u0000", "\\ud800"};
  const size_t start = below(random, text.size() + 1);
  const auto is_number = [](char c) { return (c >= '0' && c <= '9') || c == '-' || c == '.'; };
  switch (random() % 6) {
    case 0:
    case 1: {  // the next number
      size_t begin = start;
      while (begin < text.size() && !is_number(text[begin])) ++begin;
      size_t end = begin;
      while (end < text.size() && is_number(text[end])) ++end;
      std::string value(kNumbers[below(random, std::size(kNumbers))]);
      if (random() % 2 == 0 && end > begin) {  // a neighbour of what was there
        const long long old = std::strtoll(text.substr(begin, end - begin).c_str(), nullptr, 10);
        const long long step[] = {-64, -16, -1, 1, 16, 64, 4096};
        value = std::to_string(static_cast<long long>(static_cast<unsigned long long>(old) +
                                                      static_cast<unsigned long long>(step[random() % 7])));
      }
      text.replace(begin, end - begin, value);
      break;
    }
    case 2: {  // the next quoted string
      const size_t begin = text.find('"', start);
      const size_t end = begin == std::string::npos ? begin : text.find('"', begin + 1);
      if (end != std::string::npos)
        text.replace(begin, end + 1 - begin, kTokens[below(random, std::size(kTokens))]);
      break;
    }
    case 3:
      text.insert(start, kTokens[below(random, std::size(kTokens))]);
      break;
    case 4: {  // double a member
      const size_t comma = text.find(',', start);
      if (comma != std::string::npos) text.insert(comma, text.substr(comma, 1 + below(random, 120)));
      break;
    }
    default:
      mutate_bytes(text, random);
  }
}

using Mutator = void (*)(std::string& input, Random& random);

inline std::string read_all(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline std::string& current_input() {
  static std::string input;
  return input;
}

inline void save_crash() {
  if (std::FILE* out = std::fopen("fuzz_crash.bin", "wb")) {
    std::fwrite(current_input().data(), 1, current_input().size(), out);
    std::fclose(out);
  }
}

inline int try_input(const std::string& input) {
  current_input() = input;
  return LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

inline int usage(const char* program) {
  std::fprintf(stderr, "usage: %s [--runs N] [--seed S] [SEED_FILE...]\n", program);
  return 2;
}

// seeds: what is mutated when no file is given.
inline int run(int argc, char** argv, std::vector<std::string> seeds, Mutator mutate) {
  uint64_t runs = 0, seed = 1;
  std::vector<std::string> files;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if ((arg == "--runs" || arg == "--seed") && i + 1 < argc)
      (arg == "--runs" ? runs : seed) = std::strtoull(argv[++i], nullptr, 10);
    else if (arg.starts_with("-"))
      return usage(argv[0]);
    else
      files.push_back(read_all(argv[i]));
  }
  if (!files.empty()) seeds = std::move(files);
  if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(save_crash);
  std::signal(SIGABRT, [](int) { save_crash(); });
  for (const std::string& input : seeds) try_input(input);
  Random random(seed);
  double slowest = 0;
  uint64_t accepted = 0;
  for (uint64_t i = 0; i < runs; ++i) {
    std::string input = seeds[below(random, seeds.size())];
    mutate(input, random);
    const auto start = std::chrono::steady_clock::now();
    accepted += try_input(input) == 0;
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (seconds > slowest) slowest = seconds;
  }
  std::printf("%llu runs, %llu accepted, slowest %.1f ms\n", static_cast<unsigned long long>(runs),
              static_cast<unsigned long long>(accepted), slowest * 1e3);
  return 0;
}

}  // namespace llama4rt::fuzz
