#include "simt_emulator/shared_memory.h"

#include <cstring>
#include <vector>

#include "base/checked_math.h"
#include "base/error.h"

namespace llama4rt::simt {
namespace {

constexpr size_t kGap = 32;  // between objects: an index past the end meets memory nobody owns

alignas(1024) char arena[kSharedBytes];

struct Object {
  const void* key;
  size_t offset, bytes;
};
std::vector<Object> objects;  // of the running block
size_t used = 0;

}  // namespace

void begin_shared_memory(const Block& b) {
  LLAMA4RT_CHECK(kInternal, b.launch->dynamic_shared <= kSharedBytes, b.launch->name, ": asks for ",
                 b.launch->dynamic_shared, " bytes of shared memory; a block has ", kSharedBytes);
  std::memset(arena, 0xff, sizeof arena);
  objects.clear();
  if (b.launch->dynamic_shared > 0) objects.push_back({nullptr, 0, b.launch->dynamic_shared});
  used = b.launch->dynamic_shared > 0 ? b.launch->dynamic_shared + kGap : 0;
}

void* shared_object(const void* key, size_t bytes, size_t alignment, Site site) {
  InRuntime guard;
  for (const Object& o : objects)
    if (o.key == key) return arena + o.offset;
  const size_t offset = round_up(used, alignment);
  if (offset + bytes > kSharedBytes)
    fail_at(site,
            error_text("shared memory is full: ", offset + bytes, " bytes; a block has ", kSharedBytes));
  objects.push_back({key, offset, bytes});
  used = offset + bytes + kGap;
  return arena + offset;
}

void* dynamic_shared() { return arena; }

bool in_shared(const void* p) {
  return static_cast<const char*>(p) >= arena && static_cast<const char*>(p) < arena + kSharedBytes;
}

uint32_t shared_address(const void* p, Site site) {
  InRuntime guard;
  if (!in_shared(p)) fail_at(site, "the address of something that is not in shared memory");
  return uint32_t(static_cast<const char*>(p) - arena) + kSharedWindowStart;
}

char* shared_pointer(uint32_t address, size_t bytes, Site site) {
  if (address < kSharedWindowStart || address - kSharedWindowStart + bytes > kSharedBytes)
    fail_at(site, error_text("shared address ", address, " lies outside shared memory"));
  return arena + (address - kSharedWindowStart);
}

char* shared_arena() { return arena; }

bool shared_live(const void* p, size_t bytes) {
  const size_t offset = size_t(static_cast<const char*>(p) - arena);
  for (const Object& o : objects)
    if (offset >= o.offset && offset + bytes <= o.offset + o.bytes) return true;
  return false;
}

}  // namespace llama4rt::simt
