// Accesses against what their threads know (order.h).
#include "base/error.h"
#include "ptx_executor/block.h"
#include "ptx_executor/order.h"

namespace llama4rt::ptx_executor {
namespace {

uint32_t here(const Warp& w) { return w.current < w.splits.size() ? w.splits[w.current].pc : 0; }

}  // namespace

void Order::race(const Warp& w, int lane, const char* what, uint32_t address, uint32_t other,
                 uint32_t pc) const {
  std::string text = error_text("race: ", what, " shared address ", address, " by warp ", other / kLanes,
                                ", lane ", other % kLanes, ", and nothing stands between");
  if (pc != 0) text += "\n  written at " + w.program->where(pc);
  w.fault(lane, text);
}

void Order::read_shared(const Warp& w, int lane, uint32_t address, int64_t bytes) {
  const int thread = w.index * kLanes + lane;
  const uint32_t count = count_of(w);
  for (int64_t at = 0; at < bytes; at += kGrain) {
    Word& x = word(address + uint32_t(at));
    if (x.count != 0 && !knows(thread, x.writer, x.count)) [[unlikely]]
      race(w, lane, "reads what was written at", address + uint32_t(at), x.writer, x.pc);
    // Of this warp, else in a free place, else over what this thread knows, else over the second.
    Readers* mine = &x.readers[0];
    if (mine->warp != w.index) {
      Readers* second = &x.readers[1];
      const bool first_is_free =
          mine->warp < 0 ||
          knows(thread, uint32_t(mine->warp * kLanes + std::countr_zero(mine->lanes)), mine->count);
      if (second->warp == w.index || !first_is_free) mine = second;
    }
    if (mine->warp == w.index && mine->count == count) {
      mine->lanes |= 1u << lane;
    } else {
      *mine = {.count = count, .lanes = 1u << lane, .warp = int16_t(w.index)};
    }
  }
}

void Order::write_shared(const Warp& w, int lane, uint32_t address, int64_t bytes, How how) {
  const int thread = w.index * kLanes + lane;
  for (int64_t at = 0; at < bytes; at += kGrain) {
    Word& x = word(address + uint32_t(at));
    if (x.count != 0 && !knows(thread, x.writer, x.count)) [[unlikely]]
      race(w, lane, "writes over what was written at", address + uint32_t(at), x.writer, x.pc);
    for (const Readers& r : x.readers) {
      if (r.warp < 0) continue;
      for_each_lane(r.lanes, [&](int reader) {
        const auto other = uint32_t(r.warp * kLanes + reader);
        if (!knows(thread, other, r.count)) [[unlikely]]
          race(w, lane, "writes over what is read at", address + uint32_t(at), other, 0);
      });
    }
    x = {.writer = uint32_t(thread),
         .count = count_of(w),
         .pc = here(w),
         .is_async = how == How::kAsync,
         .readers = {}};
  }
}

void Order::read_shared_async(const Warp& w, int lane, uint32_t address, int64_t bytes) {
  read_shared(w, lane, address, bytes);
  for (int64_t at = 0; at < bytes; at += kGrain) {
    const Word& x = word(address + uint32_t(at));
    if (x.count != 0 && !x.is_async && proxied_[x.writer] < x.count) [[unlikely]]
      w.fault(lane, error_text("an asynchronous read of shared address ", address + uint32_t(at),
                               ", without fence.proxy.async behind the store\n  written at ",
                               w.program->where(x.pc)));
  }
}

void Order::read_global(const Warp& w, int lane, const Tag& tag) const {
  const int thread = w.index * kLanes + lane;
  if (tag.block == number_) {
    if (!knows(thread, tag.thread, tag.count)) [[unlikely]]
      w.fault(lane, error_text("race: touches global memory that warp ", tag.thread / kLanes, ", lane ",
                               tag.thread % kLanes, " wrote, and nothing stands between"));
    return;
  }
  const View& view = *views_[size_t(thread)];
  const auto other = view.others.find(tag.block);
  if (other == view.others.end() || (*other->second)[tag.thread] < tag.count) [[unlikely]]
    w.fault(lane, "race: touches global memory that another block wrote, without fence and atomic between");
}

void Order::write_global(const Warp& w, int lane, Tag& tag, bool whole_word) const {
  if (tag.block != 0) read_global(w, lane, tag);
  tag = {};
  if (whole_word) tag = {.block = number_, .thread = uint32_t(w.index * kLanes + lane), .count = count_of(w)};
}

}  // namespace llama4rt::ptx_executor
