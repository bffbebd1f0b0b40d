// Do the tests have teeth? Every place where a kernel synchronises is broken once (simt_emulator/faults.h),
// and each break must be caught, by a report or by a wrong result. A kernel is not accepted without this.
#include <cmath>

#include "cuda/cuda_backend.h"
#include "cuda/kernels/kernels.h"
#include "cuda/simt_test.h"
#include "simt_emulator/faults.h"

namespace llama4rt::test {
namespace {

// One small run of a kernel: true when its result is right; may throw a report.
using Scenario = std::function<bool()>;

// What catches a break: nothing, a wrong result, or the first line of a report.
std::string caught(const Scenario& scenario) {
  for (const simt::Options& o : schedules()) {
    const WithOptions with(o);
    try {
      if (!scenario()) return "wrong result";
    } catch (const Error& e) {
      return std::string(e.what()).substr(0, std::string(e.what()).find('\n'));
    }
  }
  return {};
}

// Breaks every place the scenario meets; `harmless` are breaks that change nothing, with the reason beside
// them in the test.
void check_teeth(const std::string& kernel, const Scenario& scenario, size_t fewest_places,
                 const std::vector<std::string>& harmless = {}) {
  if (!kChecked) return;
  simt::take_recorded_places();
  CHECK_EQ(caught(scenario), "");
  const std::vector<simt::Fault> places = simt::take_recorded_places();
  CHECK(places.size() >= fewest_places);
  for (const simt::Fault& place : places) {
    const bool expect_harmless = std::any_of(harmless.begin(), harmless.end(), [&](const std::string& h) {
      return place.text().find(h) != std::string::npos;
    });
    SCOPE(kernel, ": broken ", place.text());
    const simt::BrokenPlace broken(place);
    const std::string how = caught(scenario);
    CHECK(broken.times_met() > 0);
    CHECK_EQ(how.empty(), expect_harmless);
    if (std::getenv("LLAMA4RT_TEST_VERBOSE")) std::printf("  %s: %s\n", place.text().c_str(), how.c_str());
  }
}

Matrix uneven(Rng& rng, int64_t rows, int64_t columns) {
  Matrix m = random_activations(rng, rows, columns);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) m.row(i)[j] *= float(1 << rng.below(7));
  return m;
}

bool close(const Matrix& a, const Matrix& b, double relative) {
  for (int64_t i = 0; i < a.rows(); ++i)
    for (int64_t j = 0; j < a.columns(); ++j)
      if (!(std::abs(double(a.row(i)[j]) - double(b.row(i)[j])) <= relative * std::abs(double(b.row(i)[j]))))
        return false;
  return true;
}

}  // namespace

TEST(rmsnorm) {
  Rng rng(11);
  cuda::Stream stream;
  const int64_t dim = 700;
  const Matrix x = uneven(rng, 2, dim);
  std::vector<float> ones(size_t(dim), 1.0f);
  Matrix expected(2, dim);
  for (int64_t t = 0; t < 2; ++t) {
    double sum = 0;
    for (int64_t i = 0; i < dim; ++i) sum += double(x.row(t)[i]) * double(x.row(t)[i]);
    for (int64_t i = 0; i < dim; ++i)
      expected.row(t)[i] = float(double(x.row(t)[i]) / std::sqrt(sum / double(dim) + 1e-5));
  }
  check_teeth(
      "rmsnorm",
      [&] {
        Matrix in = x, out(2, dim);
        DeviceMatrix dx(stream, in), dout(stream, out);
        cuda::DeviceBuffer weight(size_t(dim) * 4);
        stream.copy_to_device(weight.data(), ones.data(), ones.size() * 4);
        cuda::run_rmsnorm(stream, dout.view(), dx.view(), Tensor(weight.data(), DType::kF32, {dim}), 1e-5f);
        dout.fetch(stream);
        return close(out, expected, 1e-5);
      },
      6);
}

TEST(linear_int4_decode) {
  Rng rng(12);
  cuda::Stream stream;
  const int64_t n = 40, k = 1700;  // two splits, the second of them not full
  const RandomWeight weight(rng, {.kind = WeightKind::kInt4, .group_size = 64, .zeros = true}, 1, n, k);
  const DeviceWeight dw(stream, weight.view());
  Matrix x = uneven(rng, 2, k);
  Matrix expected(2, n);
  for (int64_t t = 0; t < 2; ++t)
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < k; ++j)
        sum += double(to_float(to_bf16(x.row(t)[j]))) * double(weight_value(weight.view(), i, j));
      expected.row(t)[i] = float(sum);
    }
  check_teeth(
      "linear_int4_decode",
      [&] {
        CudaBackend backend(0);  // new scratch, never written
        Matrix in = x, out(2, n);
        DeviceMatrix dx(stream, in), dout(stream, out);
        backend.linear(dout.view(), dx.view(), dw.view());
        backend.copy_to_host(nullptr, nullptr, 0);
        dout.fetch(stream);
        return close(out, expected, 1e-2);
      },
      6);
}

}  // namespace llama4rt::test
