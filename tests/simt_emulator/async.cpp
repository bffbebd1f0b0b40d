#include "simt_emulator/async.h"

#include <cstring>
#include <map>

#include "base/error.h"
#include "simt_emulator/checker.h"
#include "simt_emulator/device_memory.h"
#include "simt_emulator/faults.h"
#include "simt_emulator/shared_memory.h"

namespace llama4rt::simt {
namespace {

struct Mbarrier {
  int count = 0;
  int pending = 0;  // arrivals left in this phase
  int64_t tx = 0;   // bytes expected and not yet landed
  uint32_t phase = 0;
  Clocks arriving, published;  // what waiters of the next, and of the last finished phase may see
};
std::map<uint32_t, Mbarrier> mbarriers;  // of the running block

std::string name_of(uint32_t address) {
  return error_text("mbarrier at shared offset ", address - kSharedWindowStart);
}

Mbarrier& find_mbarrier(uint32_t address, Site site) {
  const auto it = mbarriers.find(address);
  if (it == mbarriers.end()) fail_at(site, name_of(address) + " is used before its init");
  if (address % 8 != 0) fail_at(site, name_of(address) + " is not 8-byte aligned");
  // Its init must be ordered before any use, as that of any other data.
  checker::access(shared_pointer(address, 8, site), 8, checker::Kind::kRead, {nullptr, site});
  return it->second;
}

void flip_if_complete(Mbarrier& m) {
  if (m.pending != 0 || m.tx != 0) return;
  ++m.phase;
  m.pending = m.count;
  m.published = m.arriving;
}

void move(const ThreadCopy& c, const Thread& issuer) {
  std::memset(c.dst, 0, size_t(c.bytes));
  std::memcpy(c.dst, c.src, size_t(c.src_bytes));
  checker::copy_lands(c.dst, size_t(c.bytes), issuer, 0);
}

// Bulk stores of each thread that have been issued but not committed, and groups not waited for.
struct BulkStores {
  std::vector<std::function<void()>> open;
  std::deque<std::vector<std::function<void()>>> groups;
};
std::map<int, BulkStores> stores;  // by thread id

}  // namespace

void begin_async(Block&) {
  mbarriers.clear();
  stores.clear();
}

// --- cp.async

void copy_async(uint32_t dst, const void* src, int bytes, int src_bytes, Site site) {
  InRuntime guard;
  Thread& t = self();
  if (bytes != 4 && bytes != 8 && bytes != 16)
    fail_at(site, error_text("cp.async of ", bytes, " bytes; it moves 4, 8 or 16"));
  if (src_bytes < 0 || src_bytes > bytes) fail_at(site, error_text("cp.async reads ", src_bytes, " bytes"));
  if (dst % uint32_t(bytes) != 0 ||
      (src_bytes > 0 && reinterpret_cast<uintptr_t>(src) % uintptr_t(bytes) != 0))
    fail_at(site, "misaligned cp.async");
  char* to = shared_pointer(dst, size_t(bytes), site);
  const auto* from = static_cast<const char*>(src);
  checker::access(from, size_t(src_bytes), checker::Kind::kRead, {nullptr, site});
  checker::copy_begins(to, size_t(bytes), site);
  const ThreadCopy copy{to, from, bytes, src_bytes, site};
  if (copy_at_issue()) {
    std::memset(to, 0, size_t(bytes));
    std::memcpy(to, from, size_t(src_bytes));
    // It stays pending for the checker: nobody may rely on it before the wait. Moved once more then, which
    // gives the same bytes unless the program overwrote them, an error reported at that write.
  }
  t.open_copies.push_back(copy);
}

void copy_commit() {
  InRuntime guard;
  Thread& t = self();
  t.copy_groups.push_back(std::move(t.open_copies));
  t.open_copies.clear();
}

void copy_wait(int groups_left, Site site) {
  InRuntime guard;
  Thread& t = self();
  const bool everything = groups_left == 0;  // wait_group 0 after a commit, as cp.async.wait_all
  if (fault_at(FaultKind::kCopyWait, site)) ++groups_left;
  while (int(t.copy_groups.size()) > groups_left) {
    for (const ThreadCopy& c : t.copy_groups.front()) move(c, t);
    t.copy_groups.pop_front();
  }
  if (everything && !t.open_copies.empty())
    fail_at(site, "cp.async.wait_group 0 with copies that were never committed");
}

// --- mbarrier

void mbarrier_init(uint32_t address, int count, Site site) {
  InRuntime guard;
  if (address % 8 != 0) fail_at(site, name_of(address) + " is not 8-byte aligned");
  if (count < 1) fail_at(site, error_text("mbarrier for ", count, " arrivals"));
  char* p = shared_pointer(address, 8, site);
  checker::access(p, 8, checker::Kind::kWrite, {nullptr, site});
  std::memset(p, 0, 8);
  mbarriers[address] = {.count = count, .pending = count, .arriving = {}, .published = {}};
}

void mbarrier_expect_tx(uint32_t address, int bytes, Site site) {
  InRuntime guard;
  find_mbarrier(address, site).tx += bytes;
}

void mbarrier_arrive(uint32_t address, Site site) {
  InRuntime guard;
  Mbarrier& m = find_mbarrier(address, site);
  if (fault_at(FaultKind::kMbarrierArrive, site)) return;
  if (m.pending == 0)
    fail_at(site,
            error_text(name_of(address), ", phase ", m.phase, ": more arrivals than its count of ", m.count));
  --m.pending;
  checker::release_into(m.arriving);
  flip_if_complete(m);
}

bool mbarrier_test(uint32_t address, uint32_t parity, Site site) {
  InRuntime guard;
  Mbarrier& m = find_mbarrier(address, site);
  const bool done = (m.phase & 1u) != parity;
  if (done) checker::acquire_from(m.published);
  return done;
}

void mbarrier_wait(uint32_t address, uint32_t parity, Site site) {
  InRuntime guard;
  Mbarrier& m = find_mbarrier(address, site);
  if (fault_at(FaultKind::kMbarrierWait, site)) return;
  struct Context {
    const Mbarrier* m;
    uint32_t parity;
  } context{&m, parity};
  wait_until(
      "an mbarrier", site,
      [](void* p) {
        const auto* c = static_cast<Context*>(p);
        return (c->m->phase & 1u) != c->parity;
      },
      &context);
  checker::acquire_from(m.published);
}

// --- bulk copies

uint32_t swizzled(uint32_t address, Swizzle swizzle) {
  switch (swizzle) {
    case Swizzle::kNone:
      return address;
    case Swizzle::k128B:
      return address ^ ((address >> 7 & 7u) << 4);
    case Swizzle::k64B:
      return address ^ ((address >> 7 & 3u) << 4);
    case Swizzle::k32B:
      return address ^ ((address >> 7 & 1u) << 4);
  }
  return address;
}

void check_tensor_map(const TensorMapContents& m) {
  const auto check = [](bool ok, const char* what) { LLAMA4RT_CHECK(kInternal, ok, "tensor map: ", what); };
  check(m.rank >= 1 && m.rank <= 5, "rank is not 1..5");
  check(reinterpret_cast<uintptr_t>(m.base) % 16 == 0, "the base is not 16-byte aligned");
  for (int d = 0; d < m.rank; ++d) {
    check(m.size[size_t(d)] >= 1 && m.size[size_t(d)] <= uint64_t(1) << 32, "a size is not 1..2^32");
    check(m.box[size_t(d)] >= 1 && m.box[size_t(d)] <= 256, "a box side is not 1..256");
    check(d == 0 || m.stride[size_t(d)] % 16 == 0, "a stride is not a multiple of 16 bytes");
  }
  const uint32_t row = m.box[0] * uint32_t(m.element_bytes);
  check(row % 16 == 0, "a row of the box is not a multiple of 16 bytes");
  const uint32_t widest = m.swizzle == Swizzle::k128B  ? 128
                          : m.swizzle == Swizzle::k64B ? 64
                          : m.swizzle == Swizzle::k32B ? 32
                                                       : 1u << 30;
  check(row <= widest, "a row of the box is wider than its swizzle");
}

namespace {

TensorMapContents read_map(const void* map, int rank, Site site) {
  TensorMapContents m;
  std::memcpy(&m, map, sizeof m);
  if (m.rank != rank)
    fail_at(site, error_text("a tensor map of rank ", m.rank, " with ", rank, " coordinates"));
  return m;
}

uint32_t box_bytes(const TensorMapContents& m) {
  uint32_t n = uint32_t(m.element_bytes);
  for (int d = 0; d < m.rank; ++d) n *= m.box[size_t(d)];
  return n;
}

// each(offset in the dense box, address in global memory or null outside the tensor) for every element.
template <class Each>
void for_box(const TensorMapContents& m, const std::array<int, 5>& at, const Each& each) {
  std::array<uint32_t, 5> i{};
  for (uint32_t offset = 0; offset < box_bytes(m); offset += uint32_t(m.element_bytes)) {
    const char* p = m.base;
    for (int d = 0; d < m.rank && p; ++d) {
      const int64_t index = int64_t(at[size_t(d)]) + i[size_t(d)];
      p = index >= 0 && uint64_t(index) < m.size[size_t(d)]
              ? p + uint64_t(index) * (d == 0 ? uint64_t(m.element_bytes) : m.stride[size_t(d)])
              : nullptr;
    }
    each(offset, p);
    for (int d = 0; d < m.rank && ++i[size_t(d)] == m.box[size_t(d)]; ++d) i[size_t(d)] = 0;
  }
}

void check_tile_address(const TensorMapContents& m, uint32_t address, Site site) {
  const uint32_t alignment = m.swizzle == Swizzle::k128B  ? 1024
                             : m.swizzle == Swizzle::k64B ? 512
                             : m.swizzle == Swizzle::k32B ? 256
                                                          : 128;
  if (address % alignment != 0)
    fail_at(site, error_text("a tile of this swizzle must start at a multiple of ", alignment, " bytes"));
}

// Bytes that land together, and what then happens to the mbarrier.
void issue(uint32_t dst, uint32_t bytes, uint32_t mbarrier, Site site, std::function<void(char*)> fill) {
  Thread& t = self();
  Mbarrier& m = find_mbarrier(mbarrier, site);
  char* to = shared_pointer(dst, bytes, site);
  checker::copy_begins(to, bytes, site);
  const uint32_t clock = checker::tick(t);
  auto perform = [&t, &m, to, bytes, clock, fill = std::move(fill)] {
    fill(to);
    checker::copy_lands(to, bytes, t, clock);
    m.arriving.resize(std::max(m.arriving.size(), t.block->threads.size()));
    m.arriving[size_t(t.id)] = std::max(m.arriving[size_t(t.id)], clock);
    m.tx -= bytes;
    flip_if_complete(m);
  };
  if (copy_at_issue())
    perform();
  else
    t.block->copies.push_back({std::move(perform), "a bulk copy issued at " + site.text()});
}

}  // namespace

void bulk_load(uint32_t dst, const void* src, int bytes, uint32_t mbarrier, Site site) {
  InRuntime guard;
  if (bytes % 16 != 0 || dst % 16 != 0 || reinterpret_cast<uintptr_t>(src) % 16 != 0)
    fail_at(site, "a bulk copy needs addresses and a size in multiples of 16");
  checker::access(src, size_t(bytes), checker::Kind::kRead, {nullptr, site});
  issue(dst, uint32_t(bytes), mbarrier, site,
        [src, bytes](char* to) { std::memcpy(to, src, size_t(bytes)); });
}

void tensor_load(uint32_t dst, const void* map, const int* coordinates, int rank, uint32_t mbarrier,
                 Site site) {
  InRuntime guard;
  const TensorMapContents m = read_map(map, rank, site);
  check_tile_address(m, dst, site);
  std::array<int, 5> at{};
  std::copy_n(coordinates, rank, at.begin());
  for_box(m, at, [&](uint32_t, const char* p) {
    if (p) checker::access(p, size_t(m.element_bytes), checker::Kind::kRead, {nullptr, site});
  });
  issue(dst, box_bytes(m), mbarrier, site, [m, at, dst](char*) {
    for_box(m, at, [&](uint32_t offset, const char* p) {
      char* to = shared_arena() + (swizzled(dst + offset, m.swizzle) - kSharedWindowStart);
      if (p)
        std::memcpy(to, p, size_t(m.element_bytes));
      else
        std::memset(to, 0, size_t(m.element_bytes));
    });
  });
}

void tensor_store(const void* map, const int* coordinates, int rank, uint32_t src, Site site) {
  InRuntime guard;
  const TensorMapContents m = read_map(map, rank, site);
  check_tile_address(m, src, site);
  std::array<int, 5> at{};
  std::copy_n(coordinates, rank, at.begin());
  checker::async_proxy_reads(shared_pointer(src, box_bytes(m), site), box_bytes(m), site);
  for_box(m, at, [&](uint32_t, const char* p) {
    if (p) checker::access(p, size_t(m.element_bytes), checker::Kind::kWrite, {nullptr, site});
  });
  stores[self().id].open.push_back([m, at, src] {
    for_box(m, at, [&](uint32_t offset, const char* p) {
      const char* from = shared_arena() + (swizzled(src + offset, m.swizzle) - kSharedWindowStart);
      if (p) std::memcpy(const_cast<char*>(p), from, size_t(m.element_bytes));
    });
  });
}

void bulk_commit() {
  InRuntime guard;
  BulkStores& s = stores[self().id];
  s.groups.push_back(std::move(s.open));
  s.open.clear();
}

void bulk_wait(int groups_left, Site site) {
  InRuntime guard;
  BulkStores& s = stores[self().id];
  if (fault_at(FaultKind::kCopyWait, site)) ++groups_left;
  while (int(s.groups.size()) > groups_left) {
    for (const auto& perform : s.groups.front()) perform();
    s.groups.pop_front();
  }
}

// --- for the executor

bool land_oldest_copy(Block& b) {
  if (b.copies.empty()) return false;
  const BlockCopy copy = std::move(b.copies.front());
  b.copies.pop_front();
  copy.perform();
  return true;
}

std::string left_in_flight(const Block& b) {
  if (!b.copies.empty()) return b.where() + ": exit while " + b.copies.front().what + " is in flight";
  for (const auto& [thread, s] : stores)
    if (!s.open.empty() || !s.groups.empty())
      return error_text(b.where(), ": thread ", thread, " exits with bulk stores in flight");
  return {};
}

}  // namespace llama4rt::simt
