// What every op test does with a case: compare the reference with an independent double-precision oracle, the
// CPU tables with the reference, the tables with each other bit for bit, any number of threads bit for bit,
// and each row alone with the same row in the batch bit for bit.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ops/cases.h"
#include "ops/ops.h"
#include "ops/random_weights.h"
#include "test.h"

namespace llama4rt::test {

// --- what is compared

struct Subject {
  std::string label;  // "avx2, 1 thread"
  std::unique_ptr<Device> device;
};
// Every CPU table this machine runs on one thread, slowest first (the scalar oracle of the others), then the
// best on two and on three threads; all with int16 activations, for whose error the limits are made.
const std::vector<Subject>& subjects();
Device& reference();
// A CPU device forced to one table, as LLAMA4RT_CPU_ISA does it.
std::unique_ptr<Device> cpu_device(const std::string& isa, int num_threads,
                                   Activations activations = Activations::kInt16);

// --- how much error is allowed (docs/numerics.md, "Tolerances")

// Errors are measured against the *magnitude* of an element, the size it has when nothing cancels (for a dot
// product |x| * rms(w)), never against the element itself, which may be 0 by accident.
struct Tolerance {
  double rms = 0;    // root mean square of error over root mean square of magnitude, whole tensor
  double worst = 0;  // error over magnitude, one element
};
// fp32 sums of `length` terms.
Tolerance fp32_tolerance(int64_t length);

// --- the comparison

// What an op should give, how large its terms are, and the most that int16 activations may change it on the
// CPU, in double: [rows * columns] each.
struct Oracle {
  int64_t columns;
  std::vector<double> value;
  std::vector<double> magnitude;
  std::vector<double> rounding;

  Oracle(int64_t num_rows, int64_t num_columns)
      : columns(num_columns),
        value(size_t(num_rows * num_columns)),
        magnitude(size_t(num_rows * num_columns)),
        rounding(size_t(num_rows * num_columns)) {}
  void set(int64_t row, int64_t column, double v, double m, double r = 0) {
    value[size_t(row * columns + column)] = v;
    magnitude[size_t(row * columns + column)] = m;
    rounding[size_t(row * columns + column)] = r;
  }
};

// Runs the op for rows [first, first + count) of the case's inputs and returns its output.
using RunRows = std::function<Matrix(Device& device, int64_t first, int64_t count)>;

void conform(const Oracle& oracle, const Tolerance& tolerance, int64_t rows, const RunRows& run);

// The seed of this run: LLAMA4RT_TEST_SEED, or a new one every time. Failures print it.
uint64_t test_seed();

// A SCOPE that names the seed, and a generator of it.
#define SEEDED(rng)                                         \
  ::llama4rt::test::Rng rng(::llama4rt::test::test_seed()); \
  SCOPE("LLAMA4RT_TEST_SEED=", ::llama4rt::test::test_seed())

inline std::string describe(const cases::WeightSpec& s) {
  return error_text(weight_kind_name(s.kind), " g", s.group_size, s.zeros ? " zero points" : "",
                    s.offsets ? " offsets" : "", " ", dtype_name(s.scales), " scales");
}

// A dot product in double, its magnitude |x| * rms(w) (of weights with offsets rms(|w - o| + |o|)), and a bound on what int16 activations change: each is
// off by at most half a step, absmax / 32767 / 2 of its group, so sum over groups of that times the sum of
// |w|.
struct Product {
  double value = 0;
  double magnitude = 0;
  double rounding = 0;
};
Product product(const float* x, const Weight& w, int64_t row);
inline double silu(double x) { return x / (1.0 + std::exp(-x)); }
// silu(c * g) * (c * u), with the error of g and u carried through.
Product swiglu(const Product& gate, const Product& up, double score);

}  // namespace llama4rt::test
