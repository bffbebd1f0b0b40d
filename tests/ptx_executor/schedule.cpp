#include "ptx_executor/schedule.h"

namespace llama4rt::ptx_executor {
namespace {

constexpr int kResidentBlocks = 4;
// A warp that spins on memory would otherwise never let others go on.
constexpr int64_t kLongTurn = 1 << 20;
constexpr uint64_t kShortTurn = 200;

}  // namespace

int resident_blocks() { return simt::options().order == simt::Order::kAscending ? 1 : kResidentBlocks; }

int64_t turn_budget() {
  return simt::options().order == simt::Order::kRandom ? int64_t(1 + simt::random_below(kShortTurn))
                                                       : kLongTurn;
}

bool lands_at_issue() {
  switch (simt::options().async) {
    case simt::Async::kLazy:
      return false;
    case simt::Async::kEager:
      return true;
    case simt::Async::kRandom:
      return simt::random_below(2) == 0;
  }
  return false;
}

}  // namespace llama4rt::ptx_executor
