#include "ptx_executor/schedule.h"

namespace llama4rt::ptx_executor {
namespace {

constexpr int kResidentBlocks = 4;
// A warp that spins on memory would otherwise never let others go on.
constexpr int64_t kLongTurn = 1 << 20;
constexpr uint64_t kShortTurn = 200;

uint64_t random_state = 0;

}  // namespace

void begin_schedule() { random_state = simt::options().seed; }

uint64_t random_below(uint64_t n) {  // splitmix64
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return (z ^ z >> 31) % n;
}

int resident_blocks() { return simt::options().order == simt::Order::kAscending ? 1 : kResidentBlocks; }

int64_t turn_budget() {
  return simt::options().order == simt::Order::kRandom ? int64_t(1 + random_below(kShortTurn)) : kLongTurn;
}

bool lands_at_issue() {
  switch (simt::options().async) {
    case simt::Async::kLazy:
      return false;
    case simt::Async::kEager:
      return true;
    case simt::Async::kRandom:
      return random_below(2) == 0;
  }
  return false;
}

}  // namespace llama4rt::ptx_executor
