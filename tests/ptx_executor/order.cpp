#include "ptx_executor/order.h"

#include <algorithm>

namespace llama4rt::ptx_executor {
namespace {

void take_larger(Counts& into, const Counts& from) {
  for (size_t i = 0; i < into.size(); ++i) into[i] = std::max(into[i], from[i]);
}

void join_others(View& into, const View& from) {
  for (const auto& [block, counts] : from.others) {
    std::shared_ptr<const Counts>& mine = into.others[block];
    if (!mine) {
      mine = counts;
    } else if (mine != counts) {
      auto both = std::make_shared<Counts>(*mine);
      take_larger(*both, *counts);
      mine = std::move(both);
    }
  }
}

int thread_of(const Warp& w, int lane) { return w.index * kLanes + lane; }

}  // namespace

void join(ViewPtr& into, const ViewPtr& from) {
  if (!from || into == from) return;
  if (!into) {
    into = from;
    return;
  }
  auto both = std::make_shared<View>(*into);
  take_larger(both->seen, from->seen);
  join_others(*both, *from);
  into = std::move(both);
}

Order::Order(uint32_t number, int warps, uint32_t shared_begin, uint32_t shared_bytes)
    : number_(number), shared_begin_(shared_begin), counts_(size_t(warps), 1) {
  const size_t threads = size_t(warps) * kLanes;
  auto nothing = std::make_shared<View>();
  nothing->seen.assign(threads, 0);
  views_.assign(threads, nothing);
  proxied_.assign(threads, 0);
  fenced_.assign(threads, nullptr);
  met_.assign(threads, nullptr);
  words_.resize((shared_bytes + kGrain - 1) / kGrain);
}

// What the lanes know, with their own accesses so far. Those that follow carry the next count.
ViewPtr Order::published(const Warp& w, uint32_t lanes) {
  ViewPtr known;
  for_each_lane(lanes, [&](int lane) { join(known, views_[size_t(thread_of(w, lane))]); });
  auto all = std::make_shared<View>(*known);
  uint32_t& count = counts_[size_t(w.index)];
  for_each_lane(lanes, [&](int lane) { all->seen[size_t(thread_of(w, lane))] = count; });
  ++count;
  return all;
}

void Order::release(const Warp& w, uint32_t lanes, ViewPtr& into) { join(into, published(w, lanes)); }

void Order::acquire(const Warp& w, uint32_t lanes, const ViewPtr& from) {
  ViewPtr before, after;  // lanes mostly share one view
  for_each_lane(lanes, [&](int lane) {
    ViewPtr& mine = views_[size_t(thread_of(w, lane))];
    if (mine != before || !after) {
      before = after = mine;
      join(after, from);
    }
    mine = after;
  });
}

void Order::meet(const Warp& w, uint32_t lanes) {
  const ViewPtr all = published(w, lanes);
  for_each_lane(lanes, [&](int lane) { views_[size_t(thread_of(w, lane))] = all; });
}

// Releases what came before to the atomics that follow, and acquires what the atomics before have met.
void Order::fence(const Warp& w, uint32_t lanes) {
  for_each_lane(lanes, [&](int lane) {
    const auto t = size_t(thread_of(w, lane));
    join(views_[t], met_[t]);
    met_[t] = nullptr;
  });
  for_each_lane(lanes, [&](int lane) {
    const auto t = size_t(thread_of(w, lane));
    auto own = std::make_shared<Counts>(views_[t]->seen);
    (*own)[t] = counts_[size_t(w.index)];
    auto all = std::make_shared<View>(*views_[t]);
    all->seen = *own;
    all->others[number_] = std::move(own);
    fenced_[t] = std::move(all);
  });
  ++counts_[size_t(w.index)];
}

void Order::fence_proxy(const Warp& w, uint32_t lanes) {
  uint32_t& count = counts_[size_t(w.index)];
  for_each_lane(lanes, [&](int lane) { proxied_[size_t(thread_of(w, lane))] = count; });
  ++count;
}

// Objects are shared between blocks, so they speak of blocks by number only.
void Order::atomic(const Warp& w, int lane, uint64_t address, std::map<uint64_t, ViewPtr>& objects) {
  const auto t = size_t(thread_of(w, lane));
  ViewPtr& object = objects[address];
  if (object) {
    auto met = std::make_shared<View>();
    const auto own = object->others.find(number_);
    met->seen = own != object->others.end() ? *own->second : Counts(proxied_.size(), 0);
    join_others(*met, *object);
    join(met_[t], met);
  }
  if (!fenced_[t]) return;
  auto both = object ? std::make_shared<View>(*object) : std::make_shared<View>();
  join_others(*both, *fenced_[t]);
  object = std::move(both);
}

uint32_t Order::start_copy(const Warp& w) { return counts_[size_t(w.index)]++; }

void Order::copy_known_to(ViewPtr& into, int thread, uint32_t count) const {
  auto all = into ? std::make_shared<View>(*into) : std::make_shared<View>();
  if (all->seen.empty()) all->seen.assign(proxied_.size(), 0);
  uint32_t& seen = all->seen[size_t(thread)];
  seen = std::max(seen, count);
  into = std::move(all);
}

}  // namespace llama4rt::ptx_executor
