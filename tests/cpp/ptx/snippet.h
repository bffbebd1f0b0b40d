// A few lines of PTX, run by the executor on buffers of the test: %rd1 is the address of the input and %rd2 that of the
// output (64-bit words), %r1 the thread. Registers %p, %rs, %r, %rd, %f, %fd are declared.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "cuda/simt_test.h"
#include "ptx_executor/grid.h"
#include "ptx_executor/install.h"

namespace llama4rt::test {

struct Snippet {
  std::string body;
  std::string module = {};  // in front of the kernel: .shared variables
  std::vector<uint64_t> in = {};
  size_t out_words = 32;
  int threads = 32, blocks = 1;
  size_t dynamic_shared = 0;
  std::string bounds = {};  // ".maxntid 128, 1, 1 .minnctapersm 1"
  bool overlaps = false;
};

// Opcodes that snippets have executed in this process.
inline std::set<std::string>& executed_opcodes() {
  static std::set<std::string> all;
  return all;
}

inline std::shared_ptr<const ptx_executor::Program> compile_snippet(const Snippet& s) {
  const std::string text =
      ".version 9.0\n.target sm_90a\n.address_size 64\n" + s.module +
      "\n.visible .entry snippet(\n.param .u64 p_in,\n.param .u64 p_out\n)\n" + s.bounds +
      "{\n.reg .pred %p<32>;\n.reg .b16 %rs<64>;\n.reg .b32 %r<256>;\n.reg .b64 %rd<64>;\n"
      ".reg .f32 %f<256>;\n.reg .f64 %fd<64>;\n"
      "ld.param.u64 %rd1, [p_in];\nld.param.u64 %rd2, [p_out];\nmov.u32 %r1, %tid.x;\n" +
      s.body + "\nret;\n}\n";
  const ptx_executor::ModuleText module("snippet.ptx", text);
  const ptx_executor::Entry entry = module.entry("snippet");
  auto program = std::make_shared<ptx_executor::Program>(decode(module.module(), entry));
  for (const ptx_executor::Statement& each : entry.statements) executed_opcodes().insert(each.opcode);
  return program;
}

// Several launches in a row on the same buffers; gives the output behind the last. What it does not write is the
// filler 0xfff...f.
inline std::vector<uint64_t> run_snippets(const std::vector<Snippet>& all) {
  cuda::Stream stream;
  const Snippet& first = all.front();
  const cuda::DeviceBuffer in(std::max<size_t>(first.in.size(), 1) * 8), out(first.out_words * 8);
  stream.copy_to_device(in.data(), first.in.data(), first.in.size() * 8);
  stream.synchronize();
  std::vector<ptx_executor::Request> requests;
  for (const Snippet& s : all) {
    ptx_executor::Request r;
    r.name = "snippet";
    r.program = compile_snippet(s);
    r.grid = {s.blocks, 1, 1};
    r.threads = s.threads;
    r.dynamic_shared = s.dynamic_shared;
    r.overlaps = s.overlaps;
    const void* pointers[] = {in.data(), out.data()};
    r.parameters.resize(sizeof pointers);
    std::memcpy(r.parameters.data(), static_cast<const void*>(pointers), sizeof pointers);
    requests.push_back(std::move(r));
  }
  {
    const simt::HeapAccess open;
    run_stream(std::move(requests), ptx_executor::global_space());
  }
  std::vector<uint64_t> result(first.out_words);
  stream.copy_to_host(result.data(), out.data(), result.size() * 8);
  stream.synchronize();
  return result;
}
inline std::vector<uint64_t> run_snippet(const Snippet& s) { return run_snippets({s}); }

// The report of a snippet that must fail.
inline std::string report_of(const Snippet& s) {
  return report_of([&] { run_snippet(s); });
}
inline bool contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  std::printf("  '%s' is not in: %s\n", part.c_str(), text.c_str());
  return false;
}

// Those of all tests and some more seeds, for tiny kernels with a few ways to go wrong.
inline std::vector<simt::Options> many_schedules() {
  std::vector<simt::Options> all = schedules();
  for (uint64_t seed = 11; seed < 17; ++seed) {
    all.push_back(all[2]);
    all.back().seed = seed;
  }
  return all;
}

// Stores the 64-bit register %rdN of each thread to its word of the output.
inline std::string store_result(int n) {
  return error_text("\nmul.wide.u32 %rd60, %r1, 8;\nadd.s64 %rd60, %rd2, %rd60;\nst.global.u64 [%rd60], %rd",
                    n, ";\n");
}
// The same of a 32-bit register, extended by zeros.
inline std::string store_word(const std::string& name) {
  return error_text("\ncvt.u64.u32 %rd61, ", name, ";", store_result(61));
}

}  // namespace llama4rt::test
