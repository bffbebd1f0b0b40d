// int8 activations: within their derived error of exact products, the same bits in
// every table, thread count and batch, and no change where weights do not have 4 bits.
#include "cpu/dispatch.h"
#include "ops/conformance.h"

namespace llama4rt::test {
namespace {

// As subjects(), with int8 activations.
const std::vector<Subject>& byte_subjects() {
  static const std::vector<Subject> all = [] {
    std::vector<Subject> s;
    for (const std::string& isa : cpu::supported_isas())
      s.push_back({isa, cpu_device(isa, 1, Activations::kInt8)});
    s.push_back({"3 threads", cpu_device(cpu::supported_isas().back(), 3, Activations::kInt8)});
    return s;
  }();
  return all;
}

Matrix linear(Device& device, const Matrix& x, const Weight& w) {
  Matrix in = x, out(x.rows(), w.n);
  device.ops().linear(out.view(), in.view(), w);
  CHECK(out.intact());
  return out;
}

void check_linear(Rng& rng, const cases::LinearCase& c, const cases::WeightSpec& spec) {
  SCOPE("T ", c.tokens, ", N ", c.n, ", K ", c.k, ", ", describe(spec));
  const RandomWeight weight(rng, spec, 1, c.n, c.k);
  const Matrix x = random_activations(rng, c.tokens, c.k);
  const Matrix found = linear(*byte_subjects().front().device, x, weight.view());
  if (weight_format(spec.kind).bits != 4) {
    CHECK(found == linear(*subjects().front().device, x, weight.view()));
    return;
  }
  const double limit = fp32_tolerance(c.k).worst;
  double over = 0;
  for (int64_t t = 0; t < c.tokens; ++t)
    for (int64_t n = 0; n < c.n; ++n) {
      const Product p = product(x.row(t), weight.view(), n);
      // product() has the bound of int16: half a step of absmax / 32767.
      const double allowed = p.rounding * (32767.0 / 127.0) + limit * p.magnitude;
      over = std::max(over, std::abs(double(found.row(t)[n]) - p.value) - allowed);
    }
  CHECK(over <= 0);
  for (const Subject& s : byte_subjects()) {
    SCOPE(s.label, " bit for bit as scalar");
    CHECK(linear(*s.device, x, weight.view()) == found);
  }
  for (const int64_t row : {int64_t(0), c.tokens / 2, c.tokens - 1}) {
    SCOPE("row ", row, " alone");
    CHECK(linear(*byte_subjects().back().device, x.part(row, 1), weight.view()) == found.part(row, 1));
  }
}

}  // namespace

TEST(int8_activations_stay_within_their_bound_on_every_table) {
  SEEDED(rng);
  for (const cases::WeightSpec& spec : cases::kWeightSpecs)
    for (const cases::LinearCase& c : cases::kLinearCases) check_linear(rng, c, spec);
}

TEST(int8_activations_do_for_every_token_count) {
  SEEDED(rng);
  for (const cases::WeightSpec& spec : {cases::kInt4, cases::kTable4})
    for (int64_t tokens = 1; tokens <= cases::kMaxTileTokens; ++tokens)
      check_linear(rng, {.tokens = tokens, .n = 40, .k = 168}, spec);
}

TEST(int8_activations_keep_the_largest_values_exact) {
  // One element alone in its group is 127 of 127 steps: nothing is rounded.
  SEEDED(rng);
  const RandomWeight weight(rng, cases::kInt4, 1, 32, 256);
  Matrix x(1, 256);
  for (int64_t k = 0; k < 256; ++k) x.row(0)[k] = 0;
  const int64_t k = rng.below(256);
  x.row(0)[k] = -127.0f;
  for (const Subject& s : byte_subjects()) {
    SCOPE(s.label, ", k ", k);
    const Matrix out = linear(*s.device, x, weight.view());
    for (int64_t n = 0; n < 32; ++n) {
      const double want = -127.0 * double(weight_value(weight.view(), n, k));
      CHECK_CLOSE(double(out.row(0)[n]), want, 1e-6 * std::abs(want) + 1e-30);
    }
  }
}

TEST(a_group_with_nan_poisons_its_row_only_with_int8_activations) {
  SEEDED(rng);
  const RandomWeight weight(rng, cases::kInt4, 1, 24, 256);
  const Matrix clean = random_activations(rng, 3, 256);
  Matrix x = clean;
  x.row(1)[rng.below(256)] = std::numeric_limits<float>::quiet_NaN();
  for (const Subject& s : byte_subjects()) {
    SCOPE(s.label);
    const Matrix out = linear(*s.device, x, weight.view()),
                 expected = linear(*s.device, clean, weight.view());
    for (int64_t n = 0; n < 24; ++n) CHECK(std::isnan(out.row(1)[n]));
    CHECK(out.part(0, 1) == expected.part(0, 1));
    CHECK(out.part(2, 1) == expected.part(2, 1));
  }
}

TEST(activations_have_names_and_belong_to_the_cpu) {
  CHECK(activations_by_name("int8") == Activations::kInt8);
  CHECK(activations_by_name("int16") == Activations::kInt16);
  CHECK(activations_by_name("auto") == Activations::kAuto);
  CHECK_THROWS(kConfig, activations_by_name("int4"));
  CHECK_THROWS(kConfig, make_device("reference", {.num_threads = 1, .activations = Activations::kInt8}));
  CHECK_THROWS(kConfig, make_device("cpu", {.prefill = PrefillKernels::kMedium}));
  CHECK_THROWS(kConfig, make_device("reference", {.run_ahead = false}));
}

}  // namespace llama4rt::test
