// Every function of csrc/cuda/ptx with its instruction spoiled: another opcode, operands swapped, an immediate off by one,
// the instruction gone. The emulator cannot see any of it, since it runs the other branch of the #ifdef; the conformance
// kernels on this executor must.
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

#include "cuda/ptx_conformance.h"
#include "cuda/simt_test.h"
#include "ptx/mutate.h"
#include "ptx/snippet.h"

namespace llama4rt::test {
namespace {

using namespace mutate;  // NOLINT: the words of this file

struct Mutation {
  const char* function;  // of csrc/cuda/ptx
  const char* fault;
  const char* conformance;  // the case that has to see it
  Edit edit;
};

const std::string kWgmma = "wgmma.mma_async.sync.aligned.m64n", kTypes = "k16.f32.bf16.bf16";
const std::string kTensorLoad = "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes";
const std::string kTensorStore = "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group";
const std::string kBulkLoad = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes";
const std::string kCopy = "cp.async.cg.shared.global.L2::128B";
const std::string kMma = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32";
const std::string kLdmatrix = "ldmatrix.sync.aligned.m8n8.x4.shared.b16",
                  kLdmatrixT = "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16";

const std::vector<Mutation>& mutations() {
  static const std::vector<Mutation> all = {
      {"sync_threads", "gone", "sync_threads", drop("bar.sync")},
      {"sync_named", "threads 64 -> 32", "sync_named", set("bar.sync", 1, "32")},
      {"sync_named", "barrier 0 for all", "sync_named", set("bar.sync", 0, "0")},
      {"arrive_named", "gone", "arrive_named", drop("bar.arrive")},
      {"sync_named", "threads 64 -> 128", "sync_named", set("bar.sync", 1, "128")},
      {"arrive_named", "threads 128 -> 64", "arrive_named", set("bar.arrive", 1, "64")},
      {"arrive_named", "operands swapped", "arrive_named", swap("bar.arrive", 0, 1)},
      {"sync_warp", "gone", "sync_warp", drop("bar.warp.sync")},
      {"sync_warp", "the other lanes", "sync_warp",
       each("bar.warp.sync",
            [](auto o) { return "{ .reg .b32 m;\nnot.b32 m, " + o.at(0) + ";\nbar.warp.sync m; }"; })},
      {"atomic_add", "adds 1", "atomic_add, fence_device", set("atom.relaxed.gpu.global.add.u32", 2, "1")},
      {"atomic_add", "another scope", "atomic_add, fence_device",
       rename("atom.relaxed.gpu.global.add.u32", "atom.relaxed.cta.global.add.u32")},
      {"fence_device", "gone", "fence_device, between blocks", drop("fence.acq_rel.gpu")},
      {"atomic_add_ordered", "adds 1", "atomic_add_ordered", set("atom.acq_rel.gpu.global.add.u32", 2, "1")},
      {"atomic_add_ordered", "orders nothing", "atomic_add_ordered",
       rename("atom.acq_rel.gpu.global.add.u32", "atom.relaxed.gpu.global.add.u32")},
      {"atomic_add_ordered", "releases only", "atomic_add_ordered",
       rename("atom.acq_rel.gpu.global.add.u32", "atom.release.gpu.global.add.u32")},
      {"grid_wait", "gone", "grid_wait, grid_launch_dependents", drop("griddepcontrol.wait")},
      {"grid_launch_dependents", "gone", "grid_wait, grid_launch_dependents",
       drop("griddepcontrol.launch_dependents")},
      {"shuffle", "butterfly", "shuffle", rename("shfl.sync.idx.b32", "shfl.sync.bfly.b32")},
      {"shuffle", "segments of 16", "shuffle", set("shfl.sync.idx.b32", 3, "4127")},
      {"shuffle", "some lanes", "shuffle", set("shfl.sync.idx.b32", 4, "65535")},
      {"shuffle_xor", "lane mask 4", "shuffle_xor", set("shfl.sync.bfly.b32", 2, "4")},
      {"shuffle_xor", "clamp 15", "shuffle_xor", set("shfl.sync.bfly.b32", 3, "15")},
      {"shuffle_up", "clamp 31", "shuffle_up", set("shfl.sync.up.b32", 3, "31")},
      {"shuffle_up", "down", "shuffle_up", rename("shfl.sync.up.b32", "shfl.sync.down.b32")},
      {"shuffle_down", "clamp 0", "shuffle_down", set("shfl.sync.down.b32", 3, "0")},
      {"shuffle_down", "up", "shuffle_down", rename("shfl.sync.down.b32", "shfl.sync.up.b32")},
      {"ballot", "predicate turned", "ballot", replace("setp.ne.u32 p,", "setp.eq.u32 p,")},
      {"ballot", "some lanes", "ballot", set("vote.sync.ballot.b32", 2, "0x7fffffff")},
      {"match_any", "of itself", "match_any",
       each("match.any.sync.b32",
            [](auto o) {
              o.at(1) = o.at(0);
              return joined("match.any.sync.b32", o);
            })},
      {"match_any", "some lanes", "match_any", set("match.any.sync.b32", 2, "255")},
      {"rsqrt", "ex2", "rsqrt", rename("rsqrt.approx.f32", "ex2.approx.f32")},
      {"rsqrt", "subnormals flushed", "rsqrt", rename("rsqrt.approx.f32", "rsqrt.approx.ftz.f32")},
      {"exp2", "rsqrt", "exp2", rename("ex2.approx.f32", "rsqrt.approx.f32")},
      {"fma", "factor and term swapped", "fma", swap("fma.rn.f32", 2, 3)},
      {"mul", "add", "mul, add, bits_from_float", rename("mul.rn.f32", "add.rn.f32")},
      {"add", "mul", "mul, add, bits_from_float", rename("add.rn.f32", "mul.rn.f32")},
      {"add", "difference", "mul, add, bits_from_float", rename("add.rn.f32", "sub.rn.f32")},
      {"popcount", "clz", "popcount", rename("popc.b32", "clz.b32")},
      {"pack_bf16", "halves swapped", "pack_bf16", swap("cvt.rn.bf16x2.f32", 1, 2)},
      {"pack_bf16", "towards zero", "pack_bf16", rename("cvt.rn.bf16x2.f32", "cvt.rz.bf16x2.f32")},
      {"fma_bf16x2", "factor and term swapped", "fma_bf16x2", swap("fma.rn.bf16x2", 1, 3)},
      {"fma_bf16x2", "single precision", "fma_bf16x2", rename("fma.rn.bf16x2", "fma.rn.f32")},
      {"and_or", "table 0xf8", "and_or", set("lop3.b32", 4, "0xf8")},
      {"and_or", "table 0xeb", "and_or", set("lop3.b32", 4, "0xeb")},
      {"and_or", "operands turned", "and_or", swap("lop3.b32", 1, 3)},
      {"shared_address", "generic address kept", "copy_async_16, copy_commit, copy_wait",
       rename("cvta.to.shared.u64", "mov.u64")},
      {"load_shared_v4", "registers swapped", "load_shared_v4, shared_address",
       swap_in("ld.shared.v4.u32", 0, 1, 2)},
      {"load_shared_v4", "two words", "load_shared_v4, shared_address",
       each("ld.shared.v4.u32",
            [](auto o) {
              return "ld.shared.v2.u32 " + o.at(0).substr(0, o[0].find(',', o[0].find(',') + 1)) + "}, " +
                     o.at(1) + ";";
            })},
      {"copy_async_16", "8 bytes", "copy_async_16, copy_commit, copy_wait", set(kCopy, 2, "8")},
      {"copy_async_16", "all of the source", "copy_async_16, copy_commit, copy_wait",
       each(kCopy,
            [](auto o) {
              o.resize(3);
              return joined(kCopy, o);
            })},
      {"copy_async_16", "other cache", "copy_async_16, copy_commit, copy_wait",
       rename(kCopy, "cp.async.ca.shared.global.L2::128B")},
      {"copy_commit", "gone", "copy_async_16, copy_commit, copy_wait", drop("cp.async.commit_group")},
      {"copy_wait", "one group more", "copy_async_16, copy_commit, copy_wait",
       each("cp.async.wait_group",
            [](auto o) { return "cp.async.wait_group " + std::to_string(std::stoi(o.at(0)) + 1) + ";"; })},
      {"copy_wait", "gone", "copy_async_16, copy_commit, copy_wait", drop("cp.async.wait_group")},
      {"ldmatrix_x4", "transposed", "ldmatrix_x4", rename(kLdmatrix, kLdmatrixT)},
      {"ldmatrix_x4", "registers swapped", "ldmatrix_x4", swap_in(kLdmatrix, 0, 0, 3)},
      {"ldmatrix_x4_transposed", "not transposed", "ldmatrix_x4_transposed", rename(kLdmatrixT, kLdmatrix)},
      {"ldmatrix_x4_transposed", "registers swapped", "ldmatrix_x4_transposed", swap_in(kLdmatrixT, 0, 1, 2)},
      {"mma_m16n8k16", "a's registers swapped", "mma_m16n8k16", swap_in(kMma, 1, 1, 2)},
      {"mma_m16n8k16", "b's registers swapped", "mma_m16n8k16", swap_in(kMma, 2, 0, 1)},
      {"mma_m16n8k16", "sums swapped", "mma_m16n8k16", swap_in(kMma, 3, 0, 1)},
      {"mma_m16n8k16", "results swapped", "mma_m16n8k16", swap_in(kMma, 0, 1, 2)},
      {"mma_m16n8k16", "half", "mma_m16n8k16",
       rename(kMma, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")},
      {"mbarrier_init", "fewer arrivals", "mbarrier_init, mbarrier_arrive, mbarrier_wait",
       set("mbarrier.init.shared::cta.b64", 1, "64")},
      {"mbarrier_init", "more arrivals", "mbarrier_init, mbarrier_arrive, mbarrier_wait",
       set("mbarrier.init.shared::cta.b64", 1, "129")},
      {"fence_mbarrier_init", "gone", "bulk_load, mbarrier_arrive_expect",
       drop("fence.mbarrier_init.release.cluster")},
      {"mbarrier_arrive", "gone", "mbarrier_init, mbarrier_arrive, mbarrier_wait",
       drop("mbarrier.arrive.shared::cta.b64")},
      {"mbarrier_arrive_expect", "nothing expected", "bulk_load, mbarrier_arrive_expect",
       each("mbarrier.arrive.expect_tx.shared::cta.b64",
            [](auto o) {
              o.resize(2);
              return joined("mbarrier.arrive.shared::cta.b64", o);
            })},
      {"mbarrier_arrive_expect", "more expected", "bulk_load, mbarrier_arrive_expect",
       set("mbarrier.arrive.expect_tx.shared::cta.b64", 2, "1040")},
      {"mbarrier_wait", "other parity", "mbarrier_init, mbarrier_arrive, mbarrier_wait",
       each("mbarrier.try_wait.parity.shared::cta.b64",
            [](auto o) {
              o.at(2) = "1";
              return joined("mbarrier.try_wait.parity.shared::cta.b64", o);
            })},
      {"mbarrier_wait", "goes on when it should not", "bulk_load, mbarrier_arrive_expect",
       replace("@!done bra", "@done bra")},
      {"mbarrier_wait", "tests once", "bulk_load, mbarrier_arrive_expect", cut("@!done bra")},
      {"bulk_load", "16 bytes fewer", "bulk_load, mbarrier_arrive_expect", set(kBulkLoad, 2, "496")},
      {"bulk_load", "not in sixteens", "bulk_load, mbarrier_arrive_expect", set(kBulkLoad, 2, "500")},
      {"pick_bytes", "sources swapped", "pick_bytes", swap("prmt.b32", 1, 2)},
      {"pick_bytes", "the same byte four times", "pick_bytes", set("prmt.b32", 3, "0")},
      {"float_from_half", "as a whole number", "float_from_half", replace("cvt.f32.f16", "cvt.rn.f32.s16")},
      {"tensor_load_2d", "row and column swapped", "tensor_load_2d, 128-byte swizzle",
       swap_in(kTensorLoad, 1, 0, 1)},
      {"tensor_load_2d", "destination 128 bytes on", "tensor_load_2d, no swizzle",
       each(kTensorLoad,
            [](auto o) {
              o.at(0).insert(o[0].find(']'), "+128");
              return joined(kTensorLoad, o);
            })},
      {"tensor_load_2d", "pattern moved", "tensor_load_2d, 64-byte swizzle",
       each(kTensorLoad,
            [](auto o) {
              o.at(0).insert(o[0].find(']'), "+128");
              return joined(kTensorLoad, o);
            })},
      {"tensor_store_2d", "row and column swapped",
       "tensor_store_2d, bulk_commit, bulk_wait, fence_proxy_async", swap_in(kTensorStore, 0, 0, 1)},
      {"bulk_commit", "gone", "tensor_store_2d, bulk_commit, bulk_wait, fence_proxy_async",
       drop("cp.async.bulk.commit_group")},
      {"bulk_wait", "one group more", "tensor_store_2d, bulk_commit, bulk_wait, fence_proxy_async",
       set("cp.async.bulk.wait_group", 0, "1")},
      {"bulk_wait", "gone", "tensor_store_2d, bulk_commit, bulk_wait, fence_proxy_async",
       drop("cp.async.bulk.wait_group")},
      {"fence_proxy_async", "gone", "tensor_store_2d, bulk_commit, bulk_wait, fence_proxy_async",
       drop("fence.proxy.async.shared::cta")},
      {"fence_proxy_async", "gone", "wgmma_m64n8k16, descriptors", drop("fence.proxy.async.shared::cta")},
      {"wgmma_m64n8k16", "descriptors swapped", "wgmma_m64n8k16, descriptors",
       swap(kWgmma + "8" + kTypes, 1, 2)},
      {"wgmma_m64n8k16", "a negated", "wgmma_m64n8k16, a in registers", set(kWgmma + "8" + kTypes, 4, "-1")},
      {"wgmma_m64n8k16", "a's registers swapped", "wgmma_m64n8k16, a in registers",
       each(kWgmma + "8" + kTypes,
            [](auto o) {
              if (o.at(1)[0] == '{')
                o[1] = "{" + o[1].substr(o[1].find(' ') + 1, o[1].find('}') - o[1].find(' ') - 1) + ", " +
                       o[1].substr(1, o[1].find(',') - 1) + "}";
              return joined(kWgmma + "8" + kTypes, o);
            })},
      {"wgmma_m64n64k16", "b negated", "wgmma_m64n64k16, descriptors", set(kWgmma + "64" + kTypes, 5, "-1")},
      {"wgmma_m64n64k16", "b transposed", "wgmma_m64n64k16, a in registers",
       each(kWgmma + "64" + kTypes,
            [](auto o) {
              o.back() = "1";
              return joined(kWgmma + "64" + kTypes, o);
            })},
      {"wgmma_m64n64k16", "sums swapped", "wgmma_m64n64k16, a in registers",
       swap_in(kWgmma + "64" + kTypes, 0, 1, 2)},
      {"wgmma_m64n128k16", "sums swapped", "wgmma_m64n128k16, a in registers",
       swap_in(kWgmma + "128" + kTypes, 0, 60, 62)},
      {"wgmma_m64n128k16", "always adds", "wgmma_m64n128k16, a in registers",
       replace("setp.ne.b32 p,", "setp.ge.s32 p,")},
      {"wgmma_fence", "gone", "wgmma_m64n8k16, descriptors", drop("wgmma.fence.sync.aligned")},
      {"wgmma_commit", "gone", "wgmma_m64n8k16, descriptors", drop("wgmma.commit_group.sync.aligned")},
      {"wgmma_wait", "one group more", "wgmma_m64n8k16, descriptors",
       set("wgmma.wait_group.sync.aligned", 0, "1")},
      {"wgmma_wait", "gone", "wgmma_m64n8k16, descriptors", drop("wgmma.wait_group.sync.aligned")},
      {"wgmma_descriptor", "stride and leading swapped", "wgmma_m64n8k16, no swizzle",
       // The constant part of both: leading 128 bytes and stride 256, in sixteens, at bits 16 and 32.
       replace(std::to_string(8ULL << 16 | 16ULL << 32), std::to_string(16ULL << 16 | 8ULL << 32))},
  };
  return all;
}

const PtxCase& case_named(const std::string& name) {
  static const std::vector<PtxCase> all = ptx_cases();
  for (const PtxCase& c : all)
    if (c.name == name) return c;
  throw Error(ErrorKind::kInternal, "no case " + name);
}

std::vector<uint32_t> run(const PtxCase& c) {
  cuda::Stream stream;
  return c.run(stream);
}

// Within the case's tolerance, as for a GPU.
bool same(const PtxCase& c, const std::vector<uint32_t>& a, const std::vector<uint32_t>& b) {
  double largest = 0;
  for (const uint32_t word : a) largest = std::max(largest, std::abs(double(std::bit_cast<float>(word))));
  for (size_t i = 0; i < a.size(); ++i)
    if (a[i] != b[i] && !(std::abs(double(std::bit_cast<float>(a[i])) - double(std::bit_cast<float>(b[i]))) <=
                          c.tolerance * largest))
      return false;
  return true;
}

}  // namespace

TEST(every_spoiled_instruction_is_caught) {
  std::map<std::string, std::vector<uint32_t>> right;
  for (const Mutation& m : mutations()) right.try_emplace(m.conformance, run(case_named(m.conformance)));
  for (const Mutation& m : mutations()) {
    SCOPE(m.function, ": ", m.fault);
    const PtxCase& c = case_named(m.conformance);
    std::string how;
    for (const auto& o : many_schedules()) {  // as the conformance test runs them
      const WithOptions with(o);
      how = caught_in("ptx_conformance", m.edit, [&] { return same(c, right[m.conformance], run(c)); });
      if (!how.empty()) break;
    }
    CHECK(!how.empty());
    if (std::getenv("LLAMA4RT_TEST_VERBOSE")) std::printf("  %s, %s: %s\n", m.function, m.fault, how.c_str());
  }
}

// Every function that holds an instruction is in the list above, or in that of whole kernels.
TEST(every_function_is_spoiled) {
  std::set<std::string> spoiled;
  for (const Mutation& m : mutations()) spoiled.insert(m.function);
  for (const PtxCase& c : ptx_cases()) {
    std::string name = c.name;
    for (size_t at = 0; at < name.size();) {
      const size_t end =
          std::min(name.find_first_not_of("abcdefghijklmnopqrstuvwxyz_0123456789", at), name.size());
      const std::string word = name.substr(at, end - at);
      const bool is_function = word.find('_') != std::string::npos || c.name == word;
      if (is_function && word != "bits_from_float") {
        SCOPE(word);
        CHECK(spoiled.contains(word));
      }
      at = end + 1;
    }
  }
}

}  // namespace llama4rt::test
