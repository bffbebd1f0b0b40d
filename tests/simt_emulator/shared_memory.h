// Shared memory of a block: one arena of 227 KiB. Dynamic memory starts at offset 0; static objects follow in
// the order in which threads first meet their declarations, with a gap after each. Every block finds it
// filled with 0xff, which is NaN in bf16, half and float.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simt_emulator/executor.h"

namespace llama4rt::simt {

constexpr size_t kSharedBytes = 227 << 10;
// Hopper keeps the first KiB of the shared window for itself, so no address is 0.
constexpr uint32_t kSharedWindowStart = 1024;

void begin_shared_memory(const Block& b);
// The object declared at `key` (one static variable per declaration).
void* shared_object(const void* key, size_t bytes, size_t alignment, Site site);
void* dynamic_shared();

bool in_shared(const void* p);
// What cvta.to.shared gives, and back. A pointer elsewhere, or an address past the arena, is an error.
uint32_t shared_address(const void* p, Site site);
char* shared_pointer(uint32_t address, size_t bytes, Site site);

char* shared_arena();
// True when all bytes lie in one live object (or the dynamic part).
bool shared_live(const void* p, size_t bytes);

}  // namespace llama4rt::simt
