// Built for plain x86-64: asks cpuid, asks the operating system (XGETBV) whether it saves the wider
// registers, and asks Linux for permission to use AMX tiles, whose state is large.
#include "cpu/tables.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace llama4rt::cpu {

namespace avx2 {
const Kernels& kernels();
}
namespace avx_vnni {
const Kernels& kernels();
}
namespace avx512 {
const Kernels& kernels();
}
namespace avx512_vnni {
const Kernels& kernels();
}
namespace amx {
const Kernels& kernels();
}

namespace {

uint64_t saved_registers() {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
  uint32_t low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t(high) << 32 | low;
}

constexpr uint64_t kSavesYmm = 0x6;        // SSE and AVX state
constexpr uint64_t kSavesZmm = 0xe6;       // and opmask, upper halves, upper registers
constexpr uint64_t kSavesTiles = 0x60000;  // tile configuration and tile data

struct Leaf {
  uint32_t a = 0, b = 0, c = 0, d = 0;
};
// Zeros where the processor has no such leaf. __builtin_cpu_supports would do, but not every compiler's own library has
// what it reads.
Leaf cpuid_leaf(uint32_t leaf, uint32_t subleaf) {
  Leaf found;
  if (!__get_cpuid_count(leaf, subleaf, &found.a, &found.b, &found.c, &found.d)) return {};
  return found;
}
constexpr bool has_all(uint32_t found, uint32_t wanted) { return (found & wanted) == wanted; }

bool has_avx2() {
  return (saved_registers() & kSavesYmm) == kSavesYmm && has_all(cpuid_leaf(1, 0).c, bit_FMA | bit_F16C) &&
         has_all(cpuid_leaf(7, 0).b, bit_AVX2);
}
bool has_avx_vnni() {
  constexpr uint32_t kAvxVnni = 1u << 4;  // leaf 7, subleaf 1, eax
  return has_avx2() && has_all(cpuid_leaf(7, 1).a, kAvxVnni);
}
bool has_avx512() {
  constexpr uint32_t kWanted = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
  return has_avx2() && (saved_registers() & kSavesZmm) == kSavesZmm && has_all(cpuid_leaf(7, 0).b, kWanted);
}
bool has_avx512_vnni() { return has_avx512() && has_all(cpuid_leaf(7, 0).c, bit_AVX512VNNI); }
bool has_amx() {
  constexpr uint32_t kTile = 1u << 24, kInt8 = 1u << 25;  // leaf 7, edx
  if (!has_avx512_vnni() || (saved_registers() & kSavesTiles) != kSavesTiles ||
      !has_all(cpuid_leaf(7, 0).d, kTile | kInt8))
    return false;
  // Linux 5.16 and later want to be asked, once per process (Documentation/arch/x86/xstate.rst).
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

constexpr Table kTables[] = {
    {"avx2", has_avx2, avx2::kernels},       {"avx_vnni", has_avx_vnni, avx_vnni::kernels},
    {"avx512", has_avx512, avx512::kernels}, {"avx512_vnni", has_avx512_vnni, avx512_vnni::kernels},
    {"amx", has_amx, amx::kernels},
};

}  // namespace

std::span<const Table> vector_tables() { return kTables; }

}  // namespace llama4rt::cpu
