// Whole kernels with one fault in their PTX: operands of asm where the conformance kernels do not see them, and faults of
// the kind that a compiler would make. Each must be seen by an ordinary run of the kernel.
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "cuda/attention_harness.h"
#include "cuda/devices.h"
#include "cuda/kernels/rows.h"
#include "cuda/products.h"
#include "ptx/mutate.h"

namespace llama4rt::test {
namespace {

using namespace mutate;  // NOLINT: the words of this file

bool close(const Matrix& found, const Matrix& expected, double tolerance) {
  double largest = 0;
  for (int64_t t = 0; t < expected.rows(); ++t)
    for (int64_t i = 0; i < expected.columns(); ++i)
      largest = std::max(largest, std::abs(double(expected.row(t)[i])));
  for (int64_t t = 0; t < expected.rows(); ++t)
    for (int64_t i = 0; i < expected.columns(); ++i)
      if (!(std::abs(double(found.row(t)[i]) - double(expected.row(t)[i])) <= tolerance * largest))
        return false;
  return found.intact();
}

// A product on the device, against the reference: the kernel depends on the tokens.
bool product_is_right(int64_t tokens, int64_t n, int64_t k, const cases::WeightSpec& spec) {
  Rng rng(71);
  cuda::Stream& stream = devices().stream;
  const RandomWeight weight(rng, spec, 1, n, k);
  const DeviceWeight dw(stream, weight.view());
  Matrix x = rounded_to_bf16(uneven_activations(rng, tokens, k)), out(tokens, n), expected(tokens, n);
  devices().reference.ops().linear(expected.view(), x.view(), weight.view());
  DeviceMatrix dx(stream, x), dout(stream, out);
  devices().cuda.ops().linear(dout.view(), dx.view(), dw.view());
  devices().cuda.copy_to_host(nullptr, nullptr, 0);
  dout.fetch(stream);
  return close(out, expected, 1e-5);
}
bool decode_is_right() { return product_is_right(3, 80, 2400, cases::kInt4); }
bool medium_is_right() { return product_is_right(33, 80, 320, cases::kInt4); }
bool prefill_is_right() { return product_is_right(150, 160, 384, cases::kInt4); }

bool rmsnorm_is_right() {
  Rng rng(72);
  cuda::Stream stream;
  Matrix x = uneven_activations(rng, 2, 700), out(2, 700), expected(2, 700);
  for (int64_t t = 0; t < 2; ++t) {
    double sum = 0;
    for (int64_t i = 0; i < 700; ++i) sum += double(x.row(t)[i]) * double(x.row(t)[i]);
    for (int64_t i = 0; i < 700; ++i)
      expected.row(t)[i] = float(double(x.row(t)[i]) / std::sqrt(sum / 700 + 1e-5));
  }
  const std::vector<float> ones(700, 1.0f);
  DeviceMatrix dx(stream, x), dout(stream, out);
  const cuda::DeviceBuffer weight(700 * 4);
  stream.copy_to_device(weight.data(), ones.data(), 700 * 4);
  cuda::run_rmsnorm(stream, dout.view(), dx.view(), Tensor(weight.data(), DType::kF32, {700}), 1e-5f);
  dout.fetch(stream);
  return close(out, expected, 1e-6);
}

bool attention_is_right(int head_dim, int64_t length) {
  Rng rng(73);
  AttentionWorld world(rng, {.num_kv_heads = 1,
                             .group = 5,
                             .head_dim = head_dim,
                             .block_size = 48,
                             .kv_format = KvKind::kBF16,
                             .sequences = {{.first_position = 200, .length = length}}});
  return worst_error(world.attend(0, length), world.expected(true)) <= 0x1p-8;
}
bool hopper_is_right() { return attention_is_right(64, 36); }
bool decode_attention_is_right() { return attention_is_right(64, 1); }

// Moves the first `what` that stands behind the last `mark` in front of it to the place before that mark, in every kernel.
Edit hoist(const std::string& mark, const std::string& what) {
  return [=](const std::string& text) {
    std::string out;
    size_t moved = 0;
    for (size_t at = 0; at < text.size();) {
      const size_t next = std::min(text.find(".entry", at + 1), text.size());
      std::string kernel = text.substr(at, next - at);
      at = next;
      const size_t first = kernel.find(mark),
                   from = first == std::string::npos ? first : kernel.find(what, first);
      if (from != std::string::npos) {
        const size_t to = kernel.rfind(mark, from), end = kernel.find(';', from) + 1;
        const std::string statement = kernel.substr(from, end - from);
        kernel.erase(from, end - from);
        kernel.insert(to, statement + "\n\t");
        ++moved;
      }
      out += kernel;
    }
    LLAMA4RT_CHECK(kInternal, moved > 0, "no '", what, "' behind '", mark, "'");
    return out;
  };
}

struct Fault {
  const char* file;
  const char* what;
  bool (*is_right)();
  Edit edit;
};

const std::string kDecrease = "setmaxnreg.dec.sync.aligned.u32",
                  kIncrease = "setmaxnreg.inc.sync.aligned.u32";

std::vector<Fault> faults_of_operands() {
  return {
      {"linear_prefill", "fewer_registers gone", prefill_is_right, drop(kDecrease)},
      {"linear_prefill", "fewer_registers to 25", prefill_is_right, set(kDecrease, 0, "25")},
      {"linear_prefill", "more_registers to 256", prefill_is_right, set(kIncrease, 0, "256")},
      {"linear_prefill", "more_registers swapped with fewer", prefill_is_right, rename(kIncrease, kDecrease)},
      {"linear_prefill", "expected bytes", prefill_is_right,
       set("mbarrier.arrive.expect_tx.shared::cta.b64", 2, "128")},
      {"linear_prefill", "wgmma_wait one more", prefill_is_right,
       each("wgmma.wait_group.sync.aligned",
            [](auto o) {
              return "wgmma.wait_group.sync.aligned " + std::to_string(std::stoi(o.at(0)) + 1) + ";";
            })},
      {"linear_prefill", "and_or with another table", prefill_is_right, set("lop3.b32", 4, "0xfa")},
      {"attention_hopper", "descriptors swapped", hopper_is_right,
       each("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16",
            [](auto o) {
              if (o.at(1)[0] != '{') std::swap(o[1], o.at(2));
              return joined("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16", o);
            })},
      // Keys of 64 numbers: 128 bytes from core to core along k and 1024 along the keys, in sixteens at bits 16 and 32.
      {"attention_hopper", "leading and stride of keys swapped", hopper_is_right,
       replace(std::to_string(8ULL << 16 | 64ULL << 32), std::to_string(64ULL << 16 | 8ULL << 32))},
      {"attention_hopper", "fence_proxy_async gone", hopper_is_right, drop("fence.proxy.async.shared::cta")},
      {"attention_hopper", "bulk_load of half", hopper_is_right,
       set("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes", 2, "64")},
      {"linear_decode", "tickets order nothing", decode_is_right,
       rename("atom.acq_rel.gpu.global.add.u32", "atom.relaxed.gpu.global.add.u32")},
      {"linear_decode", "copy_wait one more", decode_is_right,
       each("cp.async.wait_group",
            [](auto o) { return "cp.async.wait_group " + std::to_string(std::stoi(o.at(0)) + 1) + ";"; })},
      {"linear_decode", "grid_wait gone", decode_is_right, drop("griddepcontrol.wait")},
      {"linear_decode", "tickets not atomic enough", decode_is_right,
       set("atom.acq_rel.gpu.global.add.u32", 2, "0")},
      {"linear_decode", "vector registers swapped", decode_is_right, swap_in("ld.shared.v4.u32", 0, 1, 2)},
      {"linear_medium", "b's registers swapped", medium_is_right,
       swap_in("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", 2, 0, 1)},
      {"linear_medium", "transposed", medium_is_right,
       rename("ldmatrix.sync.aligned.m8n8.x4.shared.b16", "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16")},
      {"attention_decode", "copies not committed", decode_attention_is_right, drop("cp.async.commit_group")},
      {"attention_decode", "exp2 of something else", decode_attention_is_right,
       rename("ex2.approx.f32", "neg.f32")},
      {"rmsnorm", "lane masks turned", rmsnorm_is_right, set("shfl.sync.bfly.b32", 3, "15")},
  };
}

std::vector<Fault> faults_of_a_compiler() {
  return {
      // A shuffle sunk into a branch that not all lanes take.
      {"rmsnorm", "a collective moved", rmsnorm_is_right,
       [](const std::string& text) {
         const std::string opcode = "shfl.sync.bfly.b32";
         int number = 0;
         return each(opcode, [&](auto o) {
           const std::string n = std::to_string(++number);
           return "{ .reg .pred some;\nsetp.lt.u32 some, %tid.x, 200;\n@!some bra SKIP" + n + ";\n" +
                  joined(opcode, o) + "\nbra.uni OVER" + n + ";\nSKIP" + n + ": mov.f32 " + o.at(0) +
                  ", 0f00000000;\nOVER" + n + ": }\n";
         })(text);
       }},
      // Half of a warp alone: what stands in the other half is another instruction.
      {"rmsnorm", "a collective doubled", rmsnorm_is_right,
       [](const std::string& text) {
         const std::string opcode = "shfl.sync.bfly.b32";
         int number = 0;
         return each(opcode, [&](auto o) {
           const std::string n = std::to_string(++number);
           return "{ .reg .pred low; .reg .b32 half;\nand.b32 half, %tid.x, 16;\nsetp.eq.u32 low, half, "
                  "0;\n@!low bra SKIP" +
                  n + ";\n" + joined(opcode, o) + "\nbra OVER" + n + ";\nSKIP" + n + ": " +
                  joined(opcode, o) + "\nOVER" + n + ": }\n";
         })(text);
       }},
      // Without volatile or a clobber of memory: the load of what other warps wrote goes above the barrier.
      {"rmsnorm", "a load moved over a barrier", rmsnorm_is_right, hoist("bar.sync 0", "ld.shared.v4.f32")},
      {"linear_decode", "a load moved over the wait for copies", decode_is_right,
       hoist("cp.async.wait_group", "ld.shared.v4.u32")},
      {"linear_prefill", "alignment of dynamic shared memory", prefill_is_right,
       replace(".extern .shared .align 1024", ".extern .shared .align 128")},
      {"attention_decode", "alignment of dynamic shared memory", decode_attention_is_right,
       replace(".extern .shared .align 1024", ".extern .shared .align 8")},
      {"rmsnorm", "alignment of a shared array", rmsnorm_is_right,
       replace(".shared .align 16", ".shared .align 4")},
  };
}

void check_caught(const std::vector<Fault>& faults) {
  for (const Fault& f : faults) {
    SCOPE(f.file, ": ", f.what);
    std::string how;
    for (const auto& o : schedules()) {
      const WithOptions with(o);
      how = caught_in(f.file, f.edit, f.is_right);
      if (!how.empty()) break;
    }
    CHECK(!how.empty());
    if (std::getenv("LLAMA4RT_TEST_VERBOSE")) std::printf("  %s, %s: %s\n", f.file, f.what, how.c_str());
  }
}

}  // namespace

TEST(what_is_changed_here_is_right_before) {
  for (const auto& o : schedules()) {
    SCOPE(describe(o));
    const WithOptions with(o);
    CHECK(rmsnorm_is_right());
    CHECK(decode_is_right());
    CHECK(medium_is_right());
    CHECK(prefill_is_right());
    CHECK(hopper_is_right());
    CHECK(decode_attention_is_right());
  }
}
TEST(faults_of_operands_are_caught) { check_caught(faults_of_operands()); }
TEST(faults_of_a_compiler_are_caught) { check_caught(faults_of_a_compiler()); }

}  // namespace llama4rt::test
