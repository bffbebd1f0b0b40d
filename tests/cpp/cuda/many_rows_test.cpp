// The matmuls with many rows of x on the emulated GPU: against the reference, against each other and
// against the same rows one by one, both bit for bit.
#include "cuda/many_rows.h"

#include <cmath>
#include <limits>

#include "cuda/devices.h"

namespace llama4rt::test {
namespace {

enum class Op { kLinear, kLinearAdd, kGateUp };
Finish finish_of(Op op) {
  return op == Op::kLinear ? Finish::kStore : op == Op::kLinearAdd ? Finish::kAdd : Finish::kSwiGlu;
}

void run(Device& device, Op op, Tensor out, Tensor x, const Weight& w) {
  if (op == Op::kLinear) return device.ops().linear(out, x, w);
  if (op == Op::kLinearAdd) return device.ops().linear_add(out, x, w);
  device.ops().gate_up(out, x, w);
}

std::string describe_product(Op op, const cases::LinearCase& c, const cases::WeightSpec& spec) {
  return error_text("op ", int(op), ", T ", c.tokens, ", N ", c.n, ", K ", c.k, ", ",
                    weight_kind_name(spec.kind), ", group ", spec.group_size, spec.zeros ? ", zeros" : "",
                    ", ", dtype_name(spec.scales), " scales");
}

// One product by several kernels.
class Product {
 public:
  Product(Rng& rng, Op op, const cases::LinearCase& c, const cases::WeightSpec& spec)
      : op_(op),
        columns_(c.n),
        plain_(rng, spec, 1, op == Op::kGateUp ? 1 : c.n, c.k),
        pairs_(rng, spec, 1, op == Op::kGateUp ? c.n : 1, c.k),
        device_weight_(devices().stream, weight()),
        x_(uneven_activations(rng, c.tokens, c.k)),
        before_(random_activations(rng, c.tokens, c.n)) {}

  const Weight& weight() const { return op_ == Op::kGateUp ? pairs_.view() : plain_.view(); }
  Matrix& x() { return x_; }

  Matrix by(RowsKernel kernel) const { return by(kernel, 0, x_.rows()); }
  Matrix by(RowsKernel kernel, int64_t first, int64_t count) const {
    Matrix x = x_.part(first, count), out = before_.part(first, count);
    DeviceMatrix dx(devices().stream, x), dout(devices().stream, out);
    multiply_rows(devices().stream, kernel, {.out = dout.view(), .finish = finish_of(op_)}, dx.view(),
                  device_weight_.view());
    dout.fetch(devices().stream);
    return out;
  }
  Matrix by_device(int64_t first, int64_t count) const {
    Matrix x = x_.part(first, count), out = before_.part(first, count);
    DeviceMatrix dx(devices().stream, x), dout(devices().stream, out);
    run(devices().cuda, op_, dout.view(), dx.view(), device_weight_.view());
    devices().cuda.copy_to_host(nullptr, nullptr, 0);
    dout.fetch(devices().stream);
    return out;
  }
  void check_against_reference(const Matrix& out) const {
    Matrix rounded = rounded_to_bf16(x_), expected = before_;
    run(devices().reference, op_, expected.view(), rounded.view(), weight());
    CHECK(out.intact());
    for (int64_t t = 0; t < out.rows(); ++t)
      for (int64_t n = 0; n < columns_; ++n) {
        double size = std::abs(double(expected.row(t)[n]));
        if (op_ == Op::kGateUp) {
          const double g = magnitude(rounded.row(t), weight(), cpu16::gate_row(n));
          const double u = magnitude(rounded.row(t), weight(), cpu16::up_row(n));
          size += 2 * g * u + g + u;
        } else {
          size += magnitude(rounded.row(t), weight(), n);
        }
        CHECK_CLOSE(out.row(t)[n], expected.row(t)[n], sum_tolerance(weight().k) * size + 1e-37);
      }
  }

 private:
  Op op_;
  int64_t columns_;
  RandomWeight plain_;
  RandomGateUp pairs_;
  DeviceWeight device_weight_;
  Matrix x_, before_;
};

// Every kernel, and single rows, for which the device takes the decode kernel.
void check_all(Rng& rng, Op op, const cases::LinearCase& c, const cases::WeightSpec& spec) {
  SCOPE(describe_product(op, c, spec));
  const Product product(rng, op, c, spec);
  const std::vector<RowsKernel> kernels = rows_kernels();
  const Matrix out = product.by(kernels.back());
  product.check_against_reference(out);
  for (const RowsKernel kernel : std::vector(kernels.begin(), kernels.end() - 1)) {
    SCOPE(rows_kernel_name(kernel));
    CHECK(product.by(kernel) == out);
  }
  for (const int64_t t : {int64_t(0), c.tokens / 2, c.tokens - 1}) {
    SCOPE("row ", t);
    CHECK(product.by_device(t, 1) == out.part(t, 1));
  }
}

}  // namespace

TEST(every_shared_case_conforms) {
  Rng rng(2);
  size_t turn = 0;
  for (const cases::LinearCase& c : cases::kLinearCases) {
    if (c.n * c.k > 300000) continue;  // the large ones: too slow for the checker, nothing new in them
    const WithOptions with(schedules()[turn % 3]);
    check_all(rng, Op(turn % 3), c, spec_of_turn(turn * 5));
    ++turn;
  }
}

TEST(every_kind_of_weight_conforms) {
  Rng rng(3);
  size_t turn = 0;
  for (const cases::WeightSpec& spec : cases::gpu_weight_specs())
    for (int i = 0; i < 2; ++i, ++turn)
      check_all(rng, i == 0 ? Op::kGateUp : Op(turn / 2 % 2), {.tokens = 19, .n = 41, .k = 210}, spec);
}

// More than one tile of rows of x and of w, more than one split of K, and more steps than the ring has
// stages; three blocks of the prefill kernel share the tiles.
TEST(many_rows_conform) {
  Rng rng(4);
  struct {
    Op op;
    cases::LinearCase c;
    cases::WeightSpec spec;
  } const all[] = {
      {Op::kLinear, {.tokens = 129, .n = 130, .k = 1025}, cases::kInt4},
      {Op::kGateUp, {.tokens = 200, .n = 70, .k = 450}, cases::kInt4},
      {Op::kLinearAdd, {.tokens = 257, .n = 17, .k = 1100}, cases::kBF16},
      {Op::kLinear,
       {.tokens = 65, .n = 20, .k = 2400},
       {.kind = WeightKind::kInt4, .group_size = 32, .zeros = true}},
  };
  size_t turn = 0;
  for (const auto& one : all) {
    const WithOptions with(schedules()[turn++ % 3]);
    check_all(rng, one.op, one.c, one.spec);
  }
}

// The device chooses the kernel by the number of rows; nobody sees which.
TEST(batch_size_changes_no_bit) {
  Rng rng(5);
  for (const cases::WeightSpec& spec : {cases::kInt4, cases::kBF16}) {
    const Product product(rng, Op::kGateUp, {.tokens = 200, .n = 20, .k = 1100}, spec);
    const Matrix all = product.by_device(0, 200);
    for (const auto& [first, count] : {std::pair<int64_t, int64_t>{199, 1}, {3, 16}, {100, 17}, {40, 100}}) {
      SCOPE("rows ", first, " to ", first + count);
      CHECK(product.by_device(first, count) == all.part(first, count));
    }
  }
}

TEST(a_row_of_nan_or_infinity_stays_alone) {
  Rng rng(6);
  for (const RowsKernel kernel : rows_kernels())
    for (const float poison :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      SCOPE(rows_kernel_name(kernel));
      Product product(rng, Op::kLinear, {.tokens = 20, .n = 48, .k = 256}, cases::kInt4);
      const Matrix clean = product.by(kernel);
      product.x().row(7)[100] = poison;
      const Matrix out = product.by(kernel);
      for (int64_t t = 0; t < out.rows(); ++t)
        if (t == 7)
          CHECK(!std::isfinite(out.row(t)[0]));
        else
          CHECK(out.part(t, 1) == clean.part(t, 1));
    }
}

// --- experts

namespace {

void check_experts(Rng& rng, const cases::ExpertsCase& c, const cases::WeightSpec& spec) {
  SCOPE(describe(c), ", ", weight_kind_name(spec.kind), ", group ", spec.group_size);
  cuda::Stream& stream = devices().stream;
  MadeRouting routing = random_routing(rng, c);
  const DeviceRouting on_device(stream, routing);
  const int64_t picks = c.tokens * c.top_k;

  const RandomGateUp gate_up(rng, spec, c.experts, c.width, c.hidden);
  const DeviceWeight device_gate_up(stream, gate_up.view());
  Matrix h = rounded_to_bf16(uneven_activations(rng, c.tokens, c.hidden)), a(picks, c.width);
  devices().reference.ops().experts_gate_up(a.view(), h.view(), gate_up.view(), routing.view());
  const RandomWeight down(rng, spec, c.experts, c.hidden, c.width);
  const DeviceWeight device_down(stream, down.view());
  Matrix down_in = rounded_to_bf16(uneven_activations(rng, picks, c.width));
  const Matrix x = random_activations(rng, c.tokens, c.hidden);
  Matrix added = x;
  devices().reference.ops().experts_down_add(added.view(), down_in.view(), down.view(), routing.view());

  std::vector<Matrix> of_gate_up, of_down;
  for (const RowsKernel kernel : rows_kernels()) {
    SCOPE(rows_kernel_name(kernel));
    Matrix found(picks, c.width), found_x = x;
    DeviceMatrix dh(stream, h), da(stream, found), ddown(stream, down_in), dx(stream, found_x);
    experts_gate_up_rows(stream, kernel, da.view(), dh.view(), device_gate_up.view(), on_device.view());
    experts_down_add_rows(stream, kernel, dx.view(), ddown.view(), device_down.view(), on_device.view());
    da.fetch(stream);
    dx.fetch(stream);
    CHECK(found.intact() && found_x.intact());
    of_gate_up.push_back(found);
    of_down.push_back(found_x);
    CHECK(found == of_gate_up[0]);
    CHECK(found_x == of_down[0]);
  }
  // One token alone, for which the device takes the decode kernel.
  const int64_t t = c.tokens - 1;
  MadeRouting alone = routing.part(t, 1);
  const DeviceRouting alone_on_device(stream, alone);
  Matrix h1 = h.part(t, 1), a1(c.top_k, c.width), in1 = down_in.part(t * c.top_k, c.top_k), x1 = x.part(t, 1);
  DeviceMatrix dh(stream, h1), da(stream, a1), din(stream, in1), dx(stream, x1);
  devices().cuda.ops().experts_gate_up(da.view(), dh.view(), device_gate_up.view(), alone_on_device.view());
  devices().cuda.ops().experts_down_add(dx.view(), din.view(), device_down.view(), alone_on_device.view());
  devices().cuda.copy_to_host(nullptr, nullptr, 0);
  da.fetch(stream);
  dx.fetch(stream);
  CHECK(a1 == of_gate_up[0].part(t * c.top_k, c.top_k));
  CHECK(x1 == of_down[0].part(t, 1));

  for (int64_t pick = 0; pick < picks; ++pick)
    for (int64_t f = 0; f < c.width; ++f) {
      const Weight one = expert_view(gate_up.view(), routing.expert(pick));
      const double score = double(routing.score(pick)), want = a.row(pick)[f];
      const double g = score * magnitude(h.row(pick / c.top_k), one, cpu16::gate_row(f));
      const double u = score * magnitude(h.row(pick / c.top_k), one, cpu16::up_row(f));
      CHECK_CLOSE(of_gate_up[0].row(pick)[f], want,
                  sum_tolerance(c.hidden) * (2 * g * u + g + u + std::abs(want)) + 1e-37);
    }
  for (int64_t token = 0; token < c.tokens; ++token)
    for (int64_t n = 0; n < c.hidden; ++n) {
      double size = std::abs(double(x.row(token)[n])) + std::abs(double(added.row(token)[n]));
      for (int64_t pick = token * c.top_k; pick < (token + 1) * c.top_k; ++pick)
        size += magnitude(down_in.row(pick), expert_view(down.view(), routing.expert(pick)), n);
      CHECK_CLOSE(of_down[0].row(token)[n], added.row(token)[n], sum_tolerance(c.width) * size + 1e-37);
    }
}

}  // namespace

TEST(every_shared_case_of_experts_conforms) {
  Rng rng(7);
  size_t turn = 0;
  for (const cases::ExpertsCase& c : cases::kExpertsCases) {
    const WithOptions with(schedules()[turn % 3]);
    check_experts(rng, c, spec_of_turn(turn * 7));
    ++turn;
  }
}

// Experts with more than one tile of rows, others with none, and some beyond the first 32.
TEST(experts_with_many_rows_conform) {
  Rng rng(8);
  check_experts(rng, {.tokens = 150, .hidden = 70, .width = 20, .experts = 2}, cases::kInt4);
  check_experts(rng, {.tokens = 60, .hidden = 40, .width = 70, .experts = 40, .top_k = 2}, cases::kInt8);
}

}  // namespace llama4rt::test
