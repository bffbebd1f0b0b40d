#include "ptx_executor/global_space.h"

#include <algorithm>

#include "base/error.h"
#include "ptx_executor/grid.h"
#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {

GlobalSpace::Region* GlobalSpace::find(uint64_t address) {
  if (last_ && !last_->allocation->freed && address - reinterpret_cast<uint64_t>(last_->base) < last_->bytes)
    return last_;
  const void* p = reinterpret_cast<const void*>(address);
  if (!simt::in_device_heap(p)) return nullptr;
  const simt::Allocation* a = simt::allocation_before(p);
  if (!a) return nullptr;
  Region& r = regions_[reinterpret_cast<uint64_t>(a->base)];
  if (!r.base) {
    // Addresses are never used again, so what was freed can go.
    std::erase_if(regions_,
                  [](const auto& each) { return each.second.base && each.second.allocation->freed; });
    r.base = reinterpret_cast<unsigned char*>(a->base);
    r.bytes = a->bytes;
    r.allocation = a;
    r.writer.assign(a->bytes, 0);
  }
  return last_ = &r;
}

GlobalSpace::Place GlobalSpace::at(const Warp& w, int lane, uint64_t address, int64_t bytes, int alignment) {
  if (address % uint64_t(alignment) != 0) [[unlikely]]
    w.fault(lane, error_text("global address ", reinterpret_cast<const void*>(address),
                             " is not a multiple of ", alignment));
  Region* r = find(address);
  if (!r) [[unlikely]]
    w.fault(lane,
            error_text("global address ", reinterpret_cast<const void*>(address), " is no device memory"));
  const uint64_t offset = address - reinterpret_cast<uint64_t>(r->base);
  if (r->allocation->freed || offset + uint64_t(bytes) > r->bytes) [[unlikely]]
    w.fault(lane, error_text(bytes, " bytes at offset ", offset, " of ", r->allocation->describe()));
  if (w.block->order && r->tags.empty()) r->tags.resize((r->bytes + 3) / 4);
  return {r->base + offset, &r->writer[offset], w.block->order ? &r->tags[offset / 4] : nullptr};
}

bool GlobalSpace::read(const Warp& w, int lane, const Place& at, int64_t bytes) const {
  const uint32_t* writer = at.writer;
  if ((w.waited >> lane & 1u) == 0) {
    // Launches that have not ended, other than its own, have numbers from the oldest of them on.
    const Grid* oldest = w.block->grid;
    while (oldest->before) oldest = oldest->before;
    const uint32_t own = w.block->grid->number;
    for (int64_t i = 0; i < bytes; ++i)
      if (writer[i] == kKernelBefore || (writer[i] >= oldest->number && writer[i] < own)) [[unlikely]]
        w.fault(lane, "reads what the kernel before wrote, and has not waited for it");
  }
  const uint32_t own_number = w.block->grid->number;
  for (int64_t i = 0; at.tag && i < bytes; i += 4)
    if (writer[i] == own_number && at.tag[i / 4].block != 0)
      w.block->order->read_global(w, lane, at.tag[i / 4]);
  return holds(at, bytes);
}

bool GlobalSpace::holds(const Place& at, int64_t bytes) const {
  return std::all_of(at.writer, at.writer + bytes, [](uint32_t writer) { return writer != 0; });
}

void GlobalSpace::write(const Warp& w, int lane, const Place& at, int64_t bytes, How how) {
  if ((w.waited >> lane & 1u) == 0) [[unlikely]]
    w.fault(lane, "writes before it has waited for the kernel before, which may still use that memory");
  const uint32_t own = w.block->grid->number;
  for (int64_t i = 0; at.tag && i < bytes; i += 4) {
    Order::Tag& tag = at.tag[i / 4];
    if (at.writer[i] != own || how == How::kAtomic) tag = {};
    if (how != How::kAtomic) w.block->order->write_global(w, lane, tag, bytes % 4 == 0);
  }
  std::fill(at.writer, at.writer + bytes, own);
}

void GlobalSpace::host_wrote(const void* p, size_t bytes, uint32_t writer) {
  Region* r = find(reinterpret_cast<uint64_t>(p));
  LLAMA4RT_CHECK(kInternal, r, "a copy to memory that is not the device's");
  const auto first = r->writer.begin() + (static_cast<const unsigned char*>(p) - r->base);
  std::fill(first, first + std::ptrdiff_t(bytes), writer);
}

}  // namespace llama4rt::ptx_executor
