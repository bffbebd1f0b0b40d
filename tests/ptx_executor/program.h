// A kernel ready to run: instructions with resolved registers and the function that executes each.
//
// What an instruction names is a unit: a register, a special register or an immediate. Its lanes lie side by side in the
// register file, at a place counted in 64 bytes: one for 16-bit registers, two for 32-bit, four for 64-bit ones, one for a
// predicate (the first word is a mask of lanes).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "ptx_executor/syntax.h"

namespace llama4rt::ptx_executor {

struct Warp;
using Unit = uint32_t;
constexpr Unit kNoUnit = 0;  // the first unit is nobody's
constexpr size_t kPlaceBytes = 64;
constexpr int kLanes = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

// How an instruction moves the program counter, and whom it needs.
enum class Flow : uint8_t {
  kPlain,
  kBranch,
  kExit,
  kCollective,  // waits until the lanes it names stand here
};

struct Instruction {
  void (*run)(Warp&, const Instruction&) = nullptr;
  Unit d = kNoUnit, a = kNoUnit, b = kNoUnit, c = kNoUnit;
  Unit guard = kNoUnit;
  int64_t imm = 0;                 // offset of an address, or what the instruction says
  uint32_t target = 0;             // of a branch
  uint32_t reads = 0, writes = 0;  // where their units begin in Program::pool
  uint8_t num_reads = 0, num_writes = 0;
  bool guard_negated = false;
  bool is_label = false;      // some branch comes here
  bool sets_defined = false;  // `run` says itself which lanes of the destination are defined
  Flow flow = Flow::kPlain;
  Unit members = kNoUnit;  // of a collective: the unit of its mask of lanes; none: all that have not exited
};

enum class Space : uint8_t { kGlobal, kShared, kParameter };

// A load or store.
struct Access {
  Space space = Space::kGlobal;
  int bytes = 0;  // of an element
  int count = 1;  // elements
  bool is_signed = false;
  int address_bits = 64;
  Unit units[4] = {};  // of the elements' registers; kNoUnit: not wanted
  int register_bits = 0;
};

struct ParameterPlace {
  std::string name;
  int64_t offset = 0, bytes = 0;
};

struct Program {
  std::string name;  // of the kernel
  std::string file;
  std::vector<Instruction> code;
  std::vector<Statement> statements;  // of each instruction, for reports
  std::vector<Access> accesses;       // of loads and stores
  std::vector<Unit> pool;             // operands that are vectors, units read and written
  // Units: nobody's, registers, special registers, constants.
  Unit first_special = 1, first_constant = 1;
  std::vector<uint8_t> bits_of;          // of each unit; 1: a predicate
  std::vector<uint32_t> place;           // of each unit
  uint32_t place_units = 0;              // places in all: first those of special registers and constants
  std::vector<unsigned char> constants;  // the bytes of those first places
  Unit num_units() const { return Unit(bits_of.size()); }
  std::map<std::string, Unit> registers;
  std::map<std::string, Unit> specials;
  std::vector<ParameterPlace> parameters;
  int64_t parameter_bytes = 0;
  std::map<std::string, uint32_t> shared;     // addresses in the shared window
  uint32_t shared_begin = 0, shared_end = 0;  // static shared memory
  int64_t declared_shared = 0;                // bytes of it
  std::string dynamic_shared;                 // name of the extern array, empty: none
  uint32_t dynamic_begin = 0;
  int max_threads = 0, min_blocks = 0;
  bool has_wgmma = false;  // the fences of its registers are then checked

  std::string where(size_t pc) const;  // "rmsnorm.ptx:30: ld.global.f32 %f1, [%rd2]"
  std::string name_of(Unit u) const;   // of a register
};

// Shared memory starts here in its window: the first KiB belongs to the system on sm_90.
constexpr uint32_t kSharedStart = 1024;
constexpr int64_t kMostSharedBytes = 227 << 10;
// Generic addresses of shared memory and of parameters: beyond all that a host pointer can be. Their low halves are no
// addresses of the space itself, so that a forgotten cvta shows.
constexpr uint64_t kSharedWindow = (uint64_t(1) << 56) + 0x5a000000;
constexpr uint64_t kParameterWindow = (uint64_t(1) << 57) + 0x3c000000;

// 64 bytes each, for registers of so many bits.
constexpr uint32_t places_of(int bits) { return bits <= 16 ? 1 : uint32_t(bits) / 16; }

// Throws Error(kInternal) that lists every instruction it refuses.
Program decode(const Module& module, const Entry& entry);

}  // namespace llama4rt::ptx_executor
