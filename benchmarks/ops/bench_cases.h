// The speed cases of tests/cpp/ops/cases.h as things that can be timed.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ops/ops.h"

namespace llama4rt::bench {

// One op on one shape. Inputs and weights live in the closure; weights that a decode step would read from
// memory are there in several copies, used in turn, so that the caches do not help.
struct BenchCase {
  std::string op;
  std::string shape;  // "T 1, N 8192, K 5120, int4 g128"
  double bytes = 0;   // that one call must move: weights once, activations once, keys and values once
  double flops = 0;   // that the formula in ops.h needs, a multiply-add counted as 2
  std::function<void()> run;
  int64_t beside = -1;  // of its group, the case that it is compared with
};

// Cases that share weights come as one group: it is built, timed in turns and dropped before the next.
struct BenchGroup {
  std::string name;
  std::function<std::vector<BenchCase>(Device&)> make;
};
std::vector<BenchGroup> groups();

}  // namespace llama4rt::bench
