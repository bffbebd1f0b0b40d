#include "ops/conformance.h"

#include <cstdlib>
#include <optional>
#include <random>
#include <set>

#include "cpu/dispatch.h"

namespace llama4rt::test {

namespace {

// Sets an environment variable for as long as it lives.
class ScopedEnvironment {
 public:
  ScopedEnvironment(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    setenv(name, value.c_str(), 1);
  }
  ~ScopedEnvironment() {
    if (before_)
      setenv(name_, before_->c_str(), 1);
    else
      unsetenv(name_);
  }
  ScopedEnvironment(const ScopedEnvironment&) = delete;
  ScopedEnvironment& operator=(const ScopedEnvironment&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

}  // namespace

std::unique_ptr<Device> cpu_device(const std::string& isa, int num_threads, Activations activations) {
  const ScopedEnvironment forced("LLAMA4RT_CPU_ISA", isa);
  return make_device("cpu", {.num_threads = num_threads, .activations = activations});
}

const std::vector<Subject>& subjects() {
  static const std::vector<Subject> all = [] {
    std::vector<Subject> s;
    const auto add = [&](const std::string& isa, int threads) {
      s.push_back({error_text(isa, ", ", threads, " threads"), cpu_device(isa, threads)});
    };
    const std::vector<std::string> isas = cpu::supported_isas();
    for (const std::string& isa : isas) add(isa, 1);
    add(isas.back(), 2);
    add(isas.back(), 3);
    return s;
  }();
  return all;
}

Device& reference() {
  static const std::unique_ptr<Device> device = make_device("reference", {.num_threads = 1});
  return *device;
}

uint64_t test_seed() {
  static const uint64_t seed = [] {
    const char* text = std::getenv("LLAMA4RT_TEST_SEED");
    return text && *text ? std::strtoull(text, nullptr, 10) : uint64_t(std::random_device{}());
  }();
  return seed;
}

Tolerance fp32_tolerance(int64_t length) {
  // A serial sum of n terms of random sign errs by about 0.4 * 2^-24 * sqrt(n) of its magnitude; both sides
  // of a comparison do, and a few roundings come on top.
  const double rms = 0x1p-24 * (4.0 + 2.0 * std::sqrt(double(length)));
  return {rms, 8.0 * rms};
}

namespace {

void compare(const std::string& what, const Oracle& oracle, const Matrix& found, const Matrix* expected,
             const Tolerance& tolerance) {
  double error_square = 0, magnitude_square = 0, worst = 0;
  int64_t worst_row = 0, worst_column = 0;
  bool finite = true;
  for (int64_t i = 0; i < found.rows(); ++i)
    for (int64_t j = 0; j < found.columns(); ++j) {
      const size_t at = size_t(i * oracle.columns + j);
      const double want = expected ? double(expected->row(i)[j]) : oracle.value[at];
      const double difference = std::abs(double(found.row(i)[j]) - want), magnitude = oracle.magnitude[at];
      finite = finite && std::isfinite(difference);
      // What the CPU may lose to int16 activations is a bound, not a chance: only the rest counts as error.
      const double error = expected ? std::max(0.0, difference - oracle.rounding[at]) : difference;
      error_square += error * error;
      magnitude_square += magnitude * magnitude;
      // Values below the normal range of fp32 keep only their absolute precision.
      const double relative = error <= 1e-37 ? 0.0 : error / magnitude;
      if (!(relative <= worst)) worst = relative, worst_row = i, worst_column = j;
    }
  SCOPE(what, ", worst element [", worst_row, ", ", worst_column, "]");
  CHECK(finite);
  CHECK(std::sqrt(error_square) <= tolerance.rms * std::sqrt(magnitude_square) + 1e-37);
  CHECK_CLOSE(worst, 0.0, tolerance.worst);
}

}  // namespace

void conform(const Oracle& oracle, const Tolerance& tolerance, int64_t rows, const RunRows& run) {
  const auto run_checked = [&](Device& device, int64_t first, int64_t count) {
    Matrix out = run(device, first, count);
    CHECK(out.intact());
    return out;
  };
  const Matrix expected = run_checked(reference(), 0, rows);
  compare("reference against double", oracle, expected, nullptr, tolerance);

  const Subject& oracle_table = subjects().front();
  const Matrix cpu = run_checked(*oracle_table.device, 0, rows);
  compare(oracle_table.label + " against reference", oracle, cpu, &expected, tolerance);
  for (const Subject& s : subjects()) {
    SCOPE(s.label, " bit for bit as ", oracle_table.label);
    CHECK(run_checked(*s.device, 0, rows) == cpu);
  }
  // First, last and a few rows between, each alone, by the slowest and the best table.
  for (const int64_t row : std::set<int64_t>{0, rows / 3, rows / 2, rows - 1})
    for (const Subject* s : {&subjects().front(), &subjects().back()}) {
      SCOPE(s->label, ", row ", row, " of ", rows, " alone");
      CHECK(run_checked(*s->device, row, 1) == cpu.part(row, 1));
    }
}

Product product(const float* x, const Weight& w, int64_t row) {
  const int64_t group = w.quantized() ? w.group_size : w.k;
  Product p;
  double x_square = 0, w_square = 0;
  for (int64_t begin = 0; begin < w.k; begin += group) {
    double absmax = 0, w_sum = 0;
    const double offset = w.offsets ? double(group_offset(w, row, begin / group)) : 0;
    for (int64_t k = begin; k < std::min(w.k, begin + group); ++k) {
      const double a = x[k], b = weight_value(w, row, k);
      p.value += a * b;
      x_square += a * a;
      const double size = w.offsets ? std::abs(b - offset) + std::abs(offset) : b;
      w_square += size * size;
      absmax = std::max(absmax, std::abs(a));
      w_sum += std::abs(b);
    }
    // Half a step of the group for every activation.
    if (w.has_integer_codes()) p.rounding += 0.5 * absmax / 32767.0 * w_sum;
  }
  p.magnitude = std::sqrt(x_square * w_square / double(w.k));
  return p;
}

Product swiglu(const Product& gate, const Product& up, double score) {
  const double g = score * gate.value, u = score * up.value;
  // Errors of g and u through silu(g) * u: |silu'| < 1.1.
  const auto carried = [&](double of_gate, double of_up) {
    return 1.1 * score * of_gate * std::abs(u) + std::abs(silu(g)) * score * of_up;
  };
  return {silu(g) * u,
          carried(gate.magnitude, up.magnitude) + std::abs(silu(g) * u) +
              1e-3 * score * score * gate.magnitude * up.magnitude,
          carried(gate.rounding, up.rounding) + 1.1 * score * score * gate.rounding * up.rounding};
}

}  // namespace llama4rt::test
