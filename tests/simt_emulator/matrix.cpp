#include "simt_emulator/matrix.h"

#include <cstring>
#include <limits>
#include <map>

#include "base/dtype.h"
#include "base/error.h"
#include "simt_emulator/async.h"
#include "simt_emulator/checker.h"
#include "simt_emulator/faults.h"
#include "simt_emulator/shared_memory.h"
#include "simt_emulator/warp.h"

namespace llama4rt::simt {
namespace {

float low(uint32_t pair) { return to_float(bf16{uint16_t(pair)}); }
float high(uint32_t pair) { return to_float(bf16{uint16_t(pair >> 16)}); }

// The m16k16 fragment of lane (g, t): a0 (g, 2t..), a1 (g+8, 2t..), a2 (g, 2t+8..), a3 (g+8, 2t+8..).
void unpack_a(float (&a)[16][16], const uint32_t* registers, int lane) {
  const int g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + 8 * (i % 2), column = 2 * t + 8 * (i / 2);
    a[row][column] = low(registers[i]);
    a[row][column + 1] = high(registers[i]);
  }
}

struct LdMatrix {
  uint32_t* out;
  uint32_t address;
  int matrices;
  bool transposed;
};

void combine_ldmatrix(Lanes& lanes) {
  if (lanes.members != kAllLanes) fail_at(lanes.site, "ldmatrix without all 32 lanes");
  const int matrices = lanes.at<LdMatrix>(0).matrices;
  for (int m = 0; m < matrices; ++m) {
    uint16_t tile[8][8];
    for (int row = 0; row < 8; ++row) {
      const uint32_t address = lanes.at<LdMatrix>(8 * m + row).address;
      if (address % 16 != 0) fail_at(lanes.site, "ldmatrix: a row address is not 16-byte aligned");
      std::memcpy(tile[row], shared_pointer(address, 16, lanes.site), 16);
    }
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const LdMatrix& l = lanes.at<LdMatrix>(lane);
      const int g = lane / 4, t = lane % 4;
      const uint32_t first = l.transposed ? tile[2 * t][g] : tile[g][2 * t];
      const uint32_t second = l.transposed ? tile[2 * t + 1][g] : tile[g][2 * t + 1];
      l.out[m] = first | second << 16;
    }
  }
}

struct Mma {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
  const float* c;
};

void combine_mma(Lanes& lanes) {
  if (lanes.members != kAllLanes) fail_at(lanes.site, "mma without all 32 lanes");
  float a[16][16], b[16][8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const Mma& m = lanes.at<Mma>(lane);
    const int g = lane / 4, t = lane % 4;
    unpack_a(a, m.a, lane);
    for (int i = 0; i < 2; ++i) {
      b[2 * t + 8 * i][g] = low(m.b[i]);
      b[2 * t + 8 * i + 1][g] = high(m.b[i]);
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const Mma& m = lanes.at<Mma>(lane);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = g + 8 * (i / 2), column = 2 * t + i % 2;
      float sum = m.c[i];
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      m.d[i] = sum;
    }
  }
}

}  // namespace

void ldmatrix(uint32_t* out, int matrices, uint32_t row_address, bool transposed, Site site) {
  InRuntime guard;
  if (self().lane < 8 * matrices)
    checker::access(shared_pointer(row_address, 16, site), 16, checker::Kind::kRead, {nullptr, site});
  LdMatrix l{out, row_address, matrices, transposed};
  warp_collective("ldmatrix", kAllLanes, site, &l, combine_ldmatrix);
}

void mma_m16n8k16_bf16(float* d, const uint32_t* a, const uint32_t* b, const float* c, Site site) {
  InRuntime guard;
  Mma m{d, a, b, c};
  warp_collective("mma.m16n8k16", kAllLanes, site, &m, combine_mma);
}

// --- wgmma

namespace {

constexpr int kMaxN = 256;

struct WgmmaOp {
  int n;
  bool a_in_registers;
  float a[16][16];  // of this warp, when in registers
  uint64_t a_descriptor, b_descriptor;
  bool accumulate;
  Site site;
  float* d[kWarpSize];  // the accumulator registers of each lane: n / 2 floats
};

// Accumulators of a warp in flight: their values by first register of lane 0.
struct InFlight {
  int operations = 0;
  std::vector<float> values;  // [lane][n / 2]
};

struct WarpGroupState {
  std::vector<WgmmaOp> open;
  std::deque<std::vector<WgmmaOp>> groups;
  std::map<float*, InFlight> accumulators;
  uint32_t fenced = 0;  // lanes that executed wgmma.fence since the last wait
};
std::map<int, WarpGroupState> warps;  // of the running block

struct Descriptor {
  uint32_t start, leading, stride, base;
  Swizzle swizzle;
};
Descriptor decode(uint64_t d) {
  const auto field = [d](int bit) { return uint32_t(d >> bit & 0x3fffu) << 4; };
  return {field(0), field(16), field(32), uint32_t(d >> 49 & 7u), Swizzle(int(d >> 62))};
}

// Byte address of element (row, k) of a K-major operand of 16-bit values; row is m or n.
uint32_t element_address(const Descriptor& d, int row, int k) {
  if (d.swizzle == Swizzle::kNone)  // 8 x 16-byte core matrices
    return d.start + uint32_t(row / 8) * d.stride + uint32_t(k / 8) * d.leading + uint32_t(row % 8) * 16 +
           uint32_t(k % 8) * 2;
  const uint32_t width = d.swizzle == Swizzle::k128B ? 128 : d.swizzle == Swizzle::k64B ? 64 : 32;
  return swizzled(d.start + uint32_t(row / 8) * d.stride + uint32_t(row % 8) * width + uint32_t(k) * 2,
                  d.swizzle);
}

float load_element(const Descriptor& d, int row, int k, Site site) {
  const char* p = shared_pointer(element_address(d, row, k), 2, site);
  checker::async_proxy_reads(p, 2, site);
  bf16 v;
  std::memcpy(&v, p, 2);
  return to_float(v);
}

void perform(const WgmmaOp& op, int warp, InFlight& acc) {
  static float b[16][kMaxN];
  const Descriptor db = decode(op.b_descriptor), da = decode(op.a_descriptor);
  float a[16][16];
  if (op.a_in_registers) std::memcpy(a, op.a, sizeof a);
  for (int k = 0; k < 16; ++k) {
    for (int n = 0; n < op.n; ++n) b[k][n] = load_element(db, n, k, op.site);
    for (int row = 0; row < 16 && !op.a_in_registers; ++row)
      a[row][k] = load_element(da, warp % 4 * 16 + row, k, op.site);
  }
  for (int lane = 0; lane < kWarpSize; ++lane)
    for (int i = 0; i < op.n / 2; ++i) {
      // d[4j + 0..1] = (g, 8j + 2t..), d[4j + 2..3] = (g + 8, 8j + 2t..)
      const int row = lane / 4 + 8 * (i % 4 / 2), column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
      float& value = acc.values[size_t(lane * (op.n / 2) + i)];
      float sum = op.accumulate ? value : 0.0f;
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      value = sum;
    }
}

struct Issue {
  float* d;
  int n;
  const uint32_t* a;
  uint64_t a_descriptor, b_descriptor;
  bool accumulate;
};

void combine_wgmma(Lanes& lanes) {
  const Issue& first = lanes.at<Issue>(0);
  WgmmaOp op{.n = first.n,
             .a_in_registers = first.a != nullptr,
             .a = {},
             .a_descriptor = first.a_descriptor,
             .b_descriptor = first.b_descriptor,
             .accumulate = first.accumulate,
             .site = lanes.site,
             .d = {}};
  if (lanes.members != kAllLanes) fail_at(lanes.site, "wgmma without all 32 lanes");
  if (first.n % 8 != 0 || first.n < 8 || first.n > kMaxN)
    fail_at(lanes.site, error_text("wgmma with n = ", first.n));
  WarpGroupState& w = warps[lanes.warp];
  if (w.fenced != kAllLanes)
    fail_at(lanes.site, "wgmma without a wgmma.fence since registers were last free");
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const Issue& l = lanes.at<Issue>(lane);
    if (l.a_descriptor != first.a_descriptor || l.b_descriptor != first.b_descriptor ||
        l.accumulate != first.accumulate)
      fail_at(lanes.site, "wgmma: lanes disagree on a descriptor");
    if (op.a_in_registers) unpack_a(op.a, l.a, lane);
    op.d[lane] = l.d;
  }
  InFlight& acc = w.accumulators[op.d[0]];
  const size_t registers = size_t(op.n / 2);
  if (acc.operations++ == 0) {
    acc.values.resize(kWarpSize * registers);
    for (size_t lane = 0; lane < kWarpSize; ++lane) {
      std::copy_n(op.d[lane], registers, &acc.values[lane * registers]);
      std::fill_n(op.d[lane], registers, std::numeric_limits<float>::quiet_NaN());
    }
  }
  w.open.push_back(op);
}

void retire(int warp, WarpGroupState& w, int groups_left) {
  while (int(w.groups.size()) > groups_left) {
    for (const WgmmaOp& op : w.groups.front()) {
      InFlight& acc = w.accumulators[op.d[0]];
      perform(op, warp, acc);
      if (--acc.operations > 0) continue;
      const size_t registers = size_t(op.n / 2);
      for (size_t lane = 0; lane < kWarpSize; ++lane)
        std::copy_n(&acc.values[lane * registers], registers, op.d[lane]);
      w.accumulators.erase(op.d[0]);
    }
    w.groups.pop_front();
  }
}

}  // namespace

void begin_matrix(Block&) { warps.clear(); }

std::string wgmma_in_flight(const Block& b) {
  for (const auto& [warp, w] : warps)
    if (!w.open.empty() || !w.groups.empty())
      return error_text(b.where(), ": warp ", warp, " exits with wgmma in flight");
  return {};
}

void wgmma_fence() {
  InRuntime guard;
  warps[self().warp].fenced |= 1u << self().lane;
}

void wgmma_m64k16_bf16(float* d, int n, const uint32_t* a_registers, uint64_t a_descriptor,
                       uint64_t b_descriptor, bool accumulate, Site site) {
  InRuntime guard;
  Issue issue{d, n, a_registers, a_descriptor, b_descriptor, accumulate};
  warp_collective("wgmma", kAllLanes, site, &issue, combine_wgmma);
}

void wgmma_commit(Site site) {
  InRuntime guard;
  warp_collective("wgmma.commit_group", kAllLanes, site, nullptr, [](Lanes& lanes) {
    WarpGroupState& w = warps[lanes.warp];
    w.groups.push_back(std::move(w.open));
    w.open.clear();
  });
}

void wgmma_wait(int groups_left, Site site) {
  InRuntime guard;
  if (fault_at(FaultKind::kWgmmaWait, site)) ++groups_left;
  warp_collective("wgmma.wait_group", kAllLanes, site, &groups_left, [](Lanes& lanes) {
    WarpGroupState& w = warps[lanes.warp];
    retire(lanes.warp, w, lanes.at<int>(0));
    w.fenced = 0;
    checker::read_for_warp(*lanes.block, lanes.warp, lanes.members);
  });
}

}  // namespace llama4rt::simt
