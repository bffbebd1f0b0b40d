// Asynchronous copies: cp.async of one thread, and mbarriers with the bulk (TMA) copies that signal them.
//
// Lazy, the default: a cp.async moves its bytes at the wait that demands it, a bulk copy only when no thread
// can run. A missing wait is then wrong every time. Eager shows the opposite mistake, a stage overwritten too
// early.
#pragma once

#include <array>
#include <cstdint>

#include "simt_emulator/executor.h"

namespace llama4rt::simt {

// --- cp.async.  Addresses are those of the shared window (shared_memory.h).
void copy_async(uint32_t dst, const void* src, int bytes, int src_bytes, Site site);
void copy_commit();
void copy_wait(int groups_left, Site site);

// --- mbarrier
void mbarrier_init(uint32_t address, int count, Site site);
void mbarrier_expect_tx(uint32_t address, int bytes, Site site);
void mbarrier_arrive(uint32_t address, Site site);
bool mbarrier_test(uint32_t address, uint32_t parity, Site site);
void mbarrier_wait(uint32_t address, uint32_t parity, Site site);

// --- bulk copies
enum class Swizzle : int { kNone = 0, k128B = 1, k64B = 2, k32B = 3 };  // as in a wgmma descriptor

// What the emulator keeps in the 128 bytes of a tensor map. Dimension 0 is the contiguous one.
struct TensorMapContents {
  const char* base = nullptr;
  int rank = 0;
  int element_bytes = 0;
  std::array<uint64_t, 5> size{};    // elements
  std::array<uint64_t, 5> stride{};  // bytes; stride[0] = element_bytes
  std::array<uint32_t, 5> box{};     // elements
  Swizzle swizzle = Swizzle::kNone;
};
// Throws kInternal for what cuTensorMapEncodeTiled refuses.
void check_tensor_map(const TensorMapContents& map);

void bulk_load(uint32_t dst, const void* src, int bytes, uint32_t mbarrier, Site site);
void tensor_load(uint32_t dst, const void* map, const int* coordinates, int rank, uint32_t mbarrier,
                 Site site);
void tensor_store(const void* map, const int* coordinates, int rank, uint32_t src, Site site);
void bulk_commit();
void bulk_wait(int groups_left, Site site);
// Byte `offset` of a tile that starts at `start` (both in the arena), after the swizzle, which works on
// addresses.
uint32_t swizzled(uint32_t address, Swizzle swizzle);

// --- for the executor
void begin_async(Block& b);
bool land_oldest_copy(Block& b);
std::string left_in_flight(const Block& b);  // report at the end of a block, or nothing

}  // namespace llama4rt::simt
