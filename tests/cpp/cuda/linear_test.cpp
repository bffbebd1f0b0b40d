// linear, linear_add and gate_up on the emulated GPU, through CUDA, against the reference
// device.
#include <cmath>

#include "cuda/cuda_device.h"
#include "cuda/products.h"
#include "cuda/simt_test.h"
#include "reference/reference_ops.h"

namespace llama4rt::test {
namespace {

enum class Op { kLinear, kLinearAdd, kGateUp };

void run(Device& device, Op op, Tensor out, Tensor x, const Weight& w) {
  if (op == Op::kLinear) return device.ops().linear(out, x, w);
  if (op == Op::kLinearAdd) return device.ops().linear_add(out, x, w);
  device.ops().gate_up(out, x, w);
}

void check(Rng& rng, Op op, const cases::LinearCase& c, const cases::WeightSpec& spec) {
  static cuda::Stream stream;
  static CudaDevice device(0);
  static ReferenceDevice reference;
  SCOPE("op ", int(op), ", T ", c.tokens, ", N ", c.n, ", K ", c.k, ", ", weight_kind_name(spec.kind),
        ", group ", spec.group_size, spec.zeros ? ", zeros" : "", spec.offsets ? ", offsets" : "", ", ",
        dtype_name(spec.scales), " scales");
  const RandomWeight plain(rng, spec, 1, c.n, c.k);
  const RandomGateUp pairs(rng, spec, 1, c.n, c.k);
  const Weight& w = op == Op::kGateUp ? pairs.view() : plain.view();
  const DeviceWeight dw(stream, w);
  Matrix x = uneven_activations(rng, c.tokens, c.k);
  Matrix out(c.tokens, c.n), expected(c.tokens, c.n);
  if (op == Op::kLinearAdd) out = expected = random_activations(rng, c.tokens, c.n);
  Matrix rounded = rounded_to_bf16(x);
  run(reference, op, expected.view(), rounded.view(), w);

  DeviceMatrix dx(stream, x), dout(stream, out);
  run(device, op, dout.view(), dx.view(), dw.view());
  device.copy_to_host(nullptr, nullptr, 0);  // waits for the device's stream
  dout.fetch(stream);
  CHECK(out.intact());
  const double tolerance = sum_tolerance(c.k);
  for (int64_t t = 0; t < c.tokens; ++t)
    for (int64_t n = 0; n < c.n; ++n) {
      double size;
      if (op == Op::kGateUp) {
        const double g = magnitude(rounded.row(t), w, cpu16::gate_row(n));
        const double u = magnitude(rounded.row(t), w, cpu16::up_row(n));
        size = 2 * g * u + g + u + std::abs(double(expected.row(t)[n]));
      } else {
        size = magnitude(rounded.row(t), w, n) + std::abs(double(expected.row(t)[n]));
      }
      CHECK_CLOSE(out.row(t)[n], expected.row(t)[n], tolerance * size + 1e-37);
    }
}

}  // namespace

TEST(every_shared_case_conforms) {
  Rng rng(2);
  size_t turn = 0;  // a case meets one kind of weight and one op here, all of them over the list
  for (const cases::LinearCase& c : cases::kLinearCases) {
    if (c.n * c.k > 300000) continue;  // the large ones: too slow for the checker, nothing new in them
    for (int i = 0; i < 3; ++i, ++turn) {
      const WithOptions with(schedules()[turn % 3]);
      check(rng, Op(turn % 2 == 0 ? 0 : i), c, spec_of_turn(turn));
    }
  }
}

TEST(every_kind_of_weight_conforms) {
  Rng rng(3);
  for (const cases::WeightSpec& each : cases::kWeightSpecs)
    for (const Op op : {Op::kLinear, Op::kLinearAdd, Op::kGateUp})
      check(rng, op, {.tokens = 3, .n = 23, .k = 210}, on_gpu(each));
}

TEST(every_kind_of_weight_conforms_for_two_tiles_of_tokens) {
  Rng rng(8);
  for (const cases::WeightSpec& each : cases::kWeightSpecs)
    check(rng, Op::kLinear, {.tokens = 12, .n = 23, .k = 210}, on_gpu(each));
}

TEST(splits_of_k_conform) {
  Rng rng(4);
  size_t turn = 0;
  for (const auto& o : schedules())
    for (const int64_t k : {1024, 1025, 2400}) {
      SCOPE(describe(o));
      const WithOptions with(o);
      const cases::WeightSpec specs[] = {cases::kInt4,
                                         {.kind = WeightKind::kInt4, .group_size = 32, .zeros = true},
                                         cases::kInt8,
                                         cases::kBF16};
      check(rng, k == 1025 ? Op::kLinearAdd : Op::kLinear, {.tokens = 2, .n = 17, .k = k}, specs[turn++ % 4]);
      check(rng, Op::kGateUp, {.tokens = 9, .n = 17, .k = k}, specs[turn % 4]);
    }
}

// Offsets of a split lie behind its stages in the ring.
TEST(splits_of_general_weights_conform) {
  Rng rng(9);
  size_t turn = 0;
  for (const cases::WeightSpec& spec : kGeneralSpecs) {
    const WithOptions with(schedules()[turn % 3]);
    check(rng, Op(turn % 3), {.tokens = turn % 2 ? 2 : 9, .n = 17, .k = turn % 2 ? 2330 : 1100}, spec);
    ++turn;
  }
}

// A launch takes 128 tokens, a work item 16.
TEST(many_tokens_conform) {
  Rng rng(8);
  check(rng, Op::kLinearAdd, {.tokens = 131, .n = 20, .k = 70}, cases::kInt4);
  check(rng, Op::kGateUp, {.tokens = 130, .n = 20, .k = 40}, cases::kBF16);
}

// A row alone gives the same bits as in any batch, and a run the same as the one before.
TEST(batch_size_changes_no_bit) {
  Rng rng(5);
  cuda::Stream stream;
  CudaDevice device(0);
  for (const cases::WeightSpec& spec : {cases::kInt4, cases::kInt8, cases::kBF16, kGeneralSpecs[0]}) {
    SCOPE(weight_kind_name(spec.kind));
    const RandomWeight weight(rng, spec, 1, 40, 1300);
    const DeviceWeight dw(stream, weight.view());
    const Matrix x = uneven_activations(rng, 17, 1300);
    const auto product = [&](int64_t first, int64_t count) {
      Matrix in = x.part(first, count), out(count, 40);
      DeviceMatrix dx(stream, in), dout(stream, out);
      device.ops().linear(dout.view(), dx.view(), dw.view());
      device.copy_to_host(nullptr, nullptr, 0);
      dout.fetch(stream);
      return out;
    };
    const Matrix all = product(0, 17);
    CHECK(product(0, 17) == all);
    for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 1}, {16, 1}, {3, 7}, {5, 12}}) {
      SCOPE("rows ", first, " to ", first + count);
      CHECK(product(first, count) == all.part(first, count));
    }
  }
}

TEST(a_row_of_nan_or_infinity_stays_alone) {
  Rng rng(6);
  cuda::Stream stream;
  CudaDevice device(0);
  for (const cases::WeightSpec& spec : {cases::kInt4, cases::kBF16})
    for (const float poison :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      const RandomWeight weight(rng, spec, 1, 48, 256);
      const DeviceWeight dw(stream, weight.view());
      Matrix x = random_activations(rng, 7, 256), poisoned = x;
      poisoned.row(2)[100] = poison;
      const auto product = [&](Matrix& in) {
        Matrix out(7, 48);
        DeviceMatrix dx(stream, in), dout(stream, out);
        device.ops().linear(dout.view(), dx.view(), dw.view());
        device.copy_to_host(nullptr, nullptr, 0);
        dout.fetch(stream);
        return out;
      };
      const Matrix clean_out = product(x), out = product(poisoned);
      for (int64_t t = 0; t < 7; ++t)
        if (t == 2)
          CHECK(!std::isfinite(out.row(t)[0]));
        else
          CHECK(out.part(t, 1) == clean_out.part(t, 1));
    }
}

TEST(what_has_no_kernel_says_so) {
  Rng rng(7);
  cuda::Stream stream;
  CudaDevice device(0);
  Matrix x = random_activations(rng, 2, 64), out(2, 16);
  DeviceMatrix dx(stream, x), dout(stream, out);
  // A weight packed for the CPU is refused by the contract, not read as if it were ours.
  const RandomWeight cpu_weight(rng, cases::kInt4, 1, 16, 64);
  CHECK_THROWS(kInternal, device.ops().linear(dout.view(), dx.view(), cpu_weight.view()));
}

}  // namespace llama4rt::test
