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
  return {r->base + offset, &r->writer[offset]};
}

bool GlobalSpace::read(const Warp& w, int lane, const Place& at, int64_t bytes) const {
  const uint32_t* writer = at.writer;
  const bool all = std::all_of(writer, writer + bytes, [](uint32_t v) { return v != 0; });
  if ((w.waited >> lane & 1u) == 0) {
    // Launches that have not ended, other than its own, have numbers from the oldest of them on.
    const Grid* oldest = w.block->grid;
    while (oldest->before) oldest = oldest->before;
    const uint32_t own = w.block->grid->number;
    for (int64_t i = 0; i < bytes; ++i)
      if (writer[i] == kKernelBefore || (writer[i] >= oldest->number && writer[i] < own)) [[unlikely]]
        w.fault(lane, "reads what the kernel before wrote, and has not waited for it");
  }
  return all;
}

void GlobalSpace::write(const Warp& w, int lane, const Place& at, int64_t bytes) {
  if ((w.waited >> lane & 1u) == 0) [[unlikely]]
    w.fault(lane, "writes before it has waited for the kernel before, which may still use that memory");
  std::fill(at.writer, at.writer + bytes, w.block->grid->number);
}

void GlobalSpace::host_wrote(const void* p, size_t bytes, uint32_t writer) {
  Region* r = find(reinterpret_cast<uint64_t>(p));
  LLAMA4RT_CHECK(kInternal, r, "a copy to memory that is not the device's");
  const auto first = r->writer.begin() + (static_cast<const unsigned char*>(p) - r->base);
  std::fill(first, first + std::ptrdiff_t(bytes), writer);
}

}  // namespace llama4rt::ptx_executor
