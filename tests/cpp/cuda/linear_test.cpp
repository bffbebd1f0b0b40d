// The int4 matmul on the emulated GPU, through the CUDA backend, against the reference backend.
//
// The kernel rounds activations to bf16 and is exact from there (integers times bf16, fp32 sums), so the
// reference gets rounded activations and only the order of additions differs.
#include <cmath>

#include "cuda/cuda_backend.h"
#include "cuda/kernels/rows.h"
#include "cuda/simt_test.h"
#include "reference/reference_backend.h"

namespace llama4rt::test {
namespace {

constexpr float kSpread = 4.0f;

Matrix rounded_to_bf16(const Matrix& x) {
  Matrix out = x;
  for (int64_t t = 0; t < x.rows(); ++t)
    for (int64_t k = 0; k < x.columns(); ++k) out.row(t)[k] = to_float(to_bf16(x.row(t)[k]));
  return out;
}

// Activations of very uneven size, so that a value taken from the wrong place shows.
Matrix uneven_activations(Rng& rng, int64_t rows, int64_t columns) {
  Matrix m = random_activations(rng, rows, columns);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) m.row(i)[j] *= float(1 << rng.below(7)) / kSpread;
  return m;
}

// sqrt(sum x^2 * sum w^2 / K): the size an element has when nothing cancels.
double magnitude(const float* x, const Weight& w, int64_t n) {
  double xs = 0, ws = 0;
  for (int64_t k = 0; k < w.k; ++k) {
    const double v = weight_value(w, n, k);
    xs += double(x[k]) * double(x[k]);
    ws += v * v;
  }
  return std::sqrt(xs * ws / double(w.k));
}

enum class Op { kLinear, kLinearAdd, kGateUp };

void run(Backend& backend, Op op, Tensor out, Tensor x, const Weight& w) {
  if (op == Op::kLinear) return backend.linear(out, x, w);
  if (op == Op::kLinearAdd) return backend.linear_add(out, x, w);
  backend.gate_up(out, x, w);
}

void check(Rng& rng, Op op, const cases::LinearCase& c, const cases::WeightSpec& spec) {
  static cuda::Stream stream;
  static CudaBackend backend(0);
  static ReferenceBackend reference;
  SCOPE("op ", int(op), ", T ", c.tokens, ", N ", c.n, ", K ", c.k, ", group ", spec.group_size,
        spec.zeros ? ", zeros" : "", ", ", dtype_name(spec.scales), " scales");
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
  run(backend, op, dout.view(), dx.view(), dw.view());
  backend.copy_to_host(nullptr, nullptr, 0);  // waits for the backend's stream
  dout.fetch(stream);
  CHECK(out.intact());
  const double tolerance = 0x1p-24 * (16.0 + 8.0 * std::sqrt(double(c.k)));
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

std::vector<cases::WeightSpec> int4_specs() {
  std::vector<cases::WeightSpec> specs;
  for (const cases::WeightSpec& s : cases::kWeightSpecs)
    if (s.kind == WeightKind::kInt4) specs.push_back(s);
  return specs;
}

}  // namespace

TEST(every_shared_case_conforms) {
  Rng rng(2);
  const auto specs = int4_specs();
  size_t turn = 0;  // a case meets one kind of weight and one op here, all of them over the list
  for (const cases::LinearCase& c : cases::kLinearCases) {
    if (c.n * c.k > 300000) continue;  // the large ones: too slow for the checker, nothing new in them
    for (int i = 0; i < 3; ++i, ++turn) {
      const WithOptions with(schedules()[turn % 3]);
      check(rng, Op(turn % 2 == 0 ? 0 : i), c, specs[turn % specs.size()]);
    }
  }
}

TEST(every_kind_of_int4_conforms) {
  Rng rng(3);
  for (const cases::WeightSpec& spec : int4_specs())
    for (const Op op : {Op::kLinear, Op::kLinearAdd, Op::kGateUp})
      check(rng, op, {.tokens = 3, .n = 23, .k = 210}, spec);
}

TEST(splits_of_k_conform) {
  Rng rng(4);
  for (const auto& o : schedules())
    for (const int64_t k : {1024, 1025, 2400}) {
      SCOPE(describe(o));
      const WithOptions with(o);
      check(rng, k == 1025 ? Op::kLinearAdd : Op::kLinear, {.tokens = 2, .n = 17, .k = k}, cases::kInt4);
      check(rng, Op::kGateUp, {.tokens = 9, .n = 17, .k = k},
            {.kind = WeightKind::kInt4, .group_size = 32, .zeros = true});
    }
}

// A row alone gives the same bits as in any batch, and a run the same as the one before.
TEST(batch_size_changes_no_bit) {
  Rng rng(5);
  cuda::Stream stream;
  CudaBackend backend(0);
  const RandomWeight weight(rng, cases::kInt4, 1, 40, 1300);
  const DeviceWeight dw(stream, weight.view());
  const Matrix x = uneven_activations(rng, 17, 1300);
  const auto product = [&](int64_t first, int64_t count) {
    Matrix in = x.part(first, count), out(count, 40);
    DeviceMatrix dx(stream, in), dout(stream, out);
    backend.linear(dout.view(), dx.view(), dw.view());
    backend.copy_to_host(nullptr, nullptr, 0);
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

TEST(a_row_of_nan_or_infinity_stays_alone) {
  Rng rng(6);
  cuda::Stream stream;
  CudaBackend backend(0);
  const RandomWeight weight(rng, cases::kInt4, 1, 48, 256);
  const DeviceWeight dw(stream, weight.view());
  for (const float poison :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Matrix x = random_activations(rng, 7, 256), poisoned = x;
    poisoned.row(2)[100] = poison;
    const auto product = [&](Matrix& in) {
      Matrix out(7, 48);
      DeviceMatrix dx(stream, in), dout(stream, out);
      backend.linear(dout.view(), dx.view(), dw.view());
      backend.copy_to_host(nullptr, nullptr, 0);
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

TEST(what_is_missing_says_so) {
  Rng rng(7);
  cuda::Stream stream;
  CudaBackend backend(0);
  Matrix x = random_activations(rng, 2, 64), out(2, 16);
  DeviceMatrix dx(stream, x), dout(stream, out);
  const RandomWeight weight(rng, cases::kBF16, 1, 16, 64);
  const DeviceWeight dw(stream, weight.view());
  CHECK_THROWS(kInternal, backend.linear(dout.view(), dx.view(), dw.view()));
  // A weight packed for the CPU is refused by the contract, not read as if it were ours.
  const RandomWeight cpu_weight(rng, cases::kInt4, 1, 16, 64);
  CHECK_THROWS(kInternal, backend.linear(dout.view(), dx.view(), cpu_weight.view()));
}

}  // namespace llama4rt::test
