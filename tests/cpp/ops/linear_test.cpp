// linear, linear_add and gate_up, for every kind of weight.
#include "ops/conformance.h"

namespace llama4rt::test {
namespace {

Oracle product_oracle(const Matrix& x, const Weight& w) {
  Oracle oracle(x.rows(), w.n);
  for (int64_t t = 0; t < x.rows(); ++t)
    for (int64_t n = 0; n < w.n; ++n) {
      const Product p = product(x.row(t), w, n);
      oracle.set(t, n, p.value, p.magnitude, p.rounding);
    }
  return oracle;
}

void check_linear(Rng& rng, const cases::LinearCase& c, const cases::WeightSpec& spec) {
  SCOPE("T ", c.tokens, ", N ", c.n, ", K ", c.k, ", ", describe(spec));
  const RandomWeight weight(rng, spec, 1, c.n, c.k);
  const Matrix x = random_activations(rng, c.tokens, c.k);
  conform(product_oracle(x, weight.view()), fp32_tolerance(c.k), c.tokens,
          [&](Device& device, int64_t first, int64_t count) {
            Matrix in = x.part(first, count), out(count, c.n);
            device.ops().linear(out.view(), in.view(), weight.view());
            return out;
          });
}

}  // namespace

TEST(linear_conforms) {
  SEEDED(rng);
  for (const cases::WeightSpec& spec : cases::kWeightSpecs)
    for (const cases::LinearCase& c : cases::kLinearCases) check_linear(rng, c, spec);
}

TEST(linear_conforms_for_every_token_count) {
  SEEDED(rng);
  for (const cases::WeightSpec& spec : cases::kKindSpecs)
    for (int64_t tokens = 1; tokens <= cases::kMaxTileTokens; ++tokens)
      check_linear(rng, {.tokens = tokens, .n = 40, .k = 160}, spec);
}

TEST(linear_add_conforms) {
  SEEDED(rng);
  for (const cases::WeightSpec& spec : cases::kWeightSpecs)
    for (const cases::LinearCase& c : cases::kLinearCases) {
      SCOPE("T ", c.tokens, ", N ", c.n, ", K ", c.k, ", ", describe(spec));
      const RandomWeight weight(rng, spec, 1, c.n, c.k);
      const Matrix a = random_activations(rng, c.tokens, c.k);
      const Matrix residual = random_activations(rng, c.tokens, c.n);
      Oracle oracle = product_oracle(a, weight.view());
      for (int64_t t = 0; t < c.tokens; ++t)
        for (int64_t n = 0; n < c.n; ++n) {
          const size_t at = size_t(t * c.n + n);
          oracle.value[at] += double(residual.row(t)[n]);
          oracle.magnitude[at] += std::abs(double(residual.row(t)[n]));
        }
      conform(oracle, fp32_tolerance(c.k), c.tokens, [&](Device& device, int64_t first, int64_t count) {
        Matrix x = residual.part(first, count), in = a.part(first, count);
        device.ops().linear_add(x.view(), in.view(), weight.view());
        return x;
      });
    }
}

TEST(gate_up_conforms) {
  SEEDED(rng);
  for (const cases::WeightSpec& spec : cases::kWeightSpecs)
    for (const cases::LinearCase& c : cases::kLinearCases) {
      const int64_t f = c.n;
      SCOPE("T ", c.tokens, ", F ", f, ", H ", c.k, ", ", describe(spec));
      const RandomGateUp weight(rng, spec, 1, f, c.k);
      const Matrix h = random_activations(rng, c.tokens, c.k);
      Oracle oracle(c.tokens, f);
      for (int64_t t = 0; t < c.tokens; ++t)
        for (int64_t i = 0; i < f; ++i) {
          const Product a = swiglu(product(h.row(t), weight.view(), cpu16::gate_row(i)),
                                   product(h.row(t), weight.view(), cpu16::up_row(i)), 1.0);
          oracle.set(t, i, a.value, a.magnitude, a.rounding);
        }
      conform(oracle, fp32_tolerance(c.k), c.tokens, [&](Device& device, int64_t first, int64_t count) {
        Matrix in = h.part(first, count), out(count, f);
        device.ops().gate_up(out.view(), in.view(), weight.view());
        return out;
      });
    }
}

// One request whose activations have overflowed must not touch its neighbours in the batch.
TEST(a_row_of_nan_or_infinity_stays_alone) {
  SEEDED(rng);
  for (const cases::WeightSpec& spec : cases::kKindSpecs)
    for (const float poison :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      SCOPE(describe(spec), ", row 2 holds ", poison);
      const RandomWeight weight(rng, spec, 1, 48, 256);
      Matrix x = random_activations(rng, 7, 256), poisoned = x;
      poisoned.row(2)[100] = poison;
      for (const Subject& s : subjects()) {
        SCOPE(s.label);
        Matrix clean_out(7, 48), out(7, 48);
        s.device->ops().linear(clean_out.view(), x.view(), weight.view());
        s.device->ops().linear(out.view(), poisoned.view(), weight.view());
        for (int64_t t = 0; t < 7; ++t)
          if (t == 2)
            CHECK(!std::isfinite(out.row(t)[0]));
          else
            CHECK(out.part(t, 1) == clean_out.part(t, 1));
      }
    }
}

// A prompt of any size runs through the same arithmetic whether activations are huge or tiny.
TEST(extreme_activations_keep_their_precision) {
  SEEDED(rng);
  for (const cases::WeightSpec& spec : cases::kKindSpecs)
    for (const float size : {1e-25f, 1e-15f, 1e15f, 1e30f}) {
      SCOPE(describe(spec), ", activations of ", size);
      const RandomWeight weight(rng, spec, 1, 48, 256);
      Matrix x = random_activations(rng, 3, 256);
      for (int64_t t = 0; t < 3; ++t)
        for (int64_t k = 0; k < 256; ++k) x.row(t)[k] *= size;
      conform(product_oracle(x, weight.view()), fp32_tolerance(256), 3,
              [&](Device& device, int64_t first, int64_t count) {
                Matrix in = x.part(first, count), out(count, 48);
                device.ops().linear(out.view(), in.view(), weight.view());
                return out;
              });
    }
}

}  // namespace llama4rt::test
