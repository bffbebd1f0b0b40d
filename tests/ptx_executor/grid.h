// Kernels of a stream at work: the blocks of one, and, where launches may overlap, of the next ones too.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ptx_executor/block.h"
#include "ptx_executor/program.h"

namespace llama4rt::ptx_executor {

class GlobalSpace;

// A launch as the host asked for it.
struct Request {
  std::string name;
  std::shared_ptr<const Program> program;
  std::vector<unsigned char> parameters;  // as the kernel's parameter space has them
  simt::Dim3 grid;
  int threads = 1;
  size_t dynamic_shared = 0;
  bool overlaps = false;  // may start when the blocks of the one before let it
};

struct Grid {
  const Request* request = nullptr;
  GlobalSpace* global = nullptr;
  uint32_t number = 0;                  // of the launch, counting all
  bool is_last = false;                 // no launch is behind it
  Grid* before = nullptr;               // the launch that griddepcontrol.wait waits for; null: it has ended
  std::vector<simt::Dim3> not_started;  // from the back
  std::vector<std::unique_ptr<Block>> resident;
  int blocks = 0, triggered = 0, ended = 0;
  std::map<uint64_t, ViewPtr> atomics;  // what is known by those who met at an atomic, by its address

  bool done() const { return ended == blocks; }
  bool lets_next_start() const { return triggered == blocks; }
};

// Runs the launches in order, overlapping them where they may. Throws Error(kInternal) with a report.
void run_stream(std::vector<Request> requests, GlobalSpace& global);

// What has been executed so far, over all launches.
struct Executed {
  uint64_t warp_instructions = 0;
};
Executed executed();

}  // namespace llama4rt::ptx_executor
