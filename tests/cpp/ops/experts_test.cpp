// route, experts_gate_up and experts_down_add.
#include "ops/conformance.h"
#include "ops/made_routing.h"

namespace llama4rt::test {
TEST(experts_gate_up_conforms) {
  SEEDED(rng);
  for (const cases::WeightSpec& spec : cases::kWeightSpecs)
    for (const cases::ExpertsCase& c : cases::kExpertsCases) {
      SCOPE(describe(c), ", ", describe(spec));
      const RandomGateUp weight(rng, spec, c.experts, c.width, c.hidden);
      const Matrix h = random_activations(rng, c.tokens, c.hidden);
      const MadeRouting routing = random_routing(rng, c);
      Oracle oracle(c.tokens, c.top_k * c.width);  // a row holds the K picks of a token
      for (int64_t pick = 0; pick < c.tokens * c.top_k; ++pick) {
        const Weight one = expert_view(weight.view(), routing.expert(pick));
        for (int64_t f = 0; f < c.width; ++f) {
          const float* x = h.row(pick / c.top_k);
          const Product a = swiglu(product(x, one, cpu16::gate_row(f)), product(x, one, cpu16::up_row(f)),
                                   double(routing.score(pick)));
          oracle.set(pick / c.top_k, pick % c.top_k * c.width + f, a.value, a.magnitude, a.rounding);
        }
      }
      conform(oracle, fp32_tolerance(c.hidden), c.tokens, [&](Device& device, int64_t first, int64_t count) {
        Matrix in = h.part(first, count), a(count * c.top_k, c.width), out(count, c.top_k * c.width);
        MadeRouting part = routing.part(first, count);
        device.ops().experts_gate_up(a.view(), in.view(), weight.view(), part.view());
        CHECK(a.intact());
        for (int64_t pick = 0; pick < a.rows(); ++pick)
          std::copy_n(a.row(pick), c.width, out.row(pick / c.top_k) + pick % c.top_k * c.width);
        return out;
      });
    }
}

TEST(experts_down_add_conforms) {
  SEEDED(rng);
  for (const cases::WeightSpec& spec : cases::kWeightSpecs)
    for (const cases::ExpertsCase& c : cases::kExpertsCases) {
      SCOPE(describe(c), ", ", describe(spec));
      const RandomWeight weight(rng, spec, c.experts, c.hidden, c.width);
      const Matrix a = random_activations(rng, c.tokens * c.top_k, c.width);
      const Matrix residual = random_activations(rng, c.tokens, c.hidden);
      const MadeRouting routing = random_routing(rng, c);
      Oracle oracle(c.tokens, c.hidden);
      for (int64_t t = 0; t < c.tokens; ++t)
        for (int64_t n = 0; n < c.hidden; ++n) {
          double value = residual.row(t)[n], magnitude = std::abs(value), rounding = 0;
          for (int64_t pick = t * c.top_k; pick < (t + 1) * c.top_k; ++pick) {
            const Product p = product(a.row(pick), expert_view(weight.view(), routing.expert(pick)), n);
            value += p.value;
            magnitude += p.magnitude;
            rounding += p.rounding;
          }
          oracle.set(t, n, value, magnitude, rounding);
        }
      conform(oracle, fp32_tolerance(c.width), c.tokens, [&](Device& device, int64_t first, int64_t count) {
        Matrix x = residual.part(first, count), in = a.part(first * c.top_k, count * c.top_k);
        MadeRouting part = routing.part(first, count);
        device.ops().experts_down_add(x.view(), in.view(), weight.view(), part.view());
        return x;
      });
    }
}

// moe_gate_up and moe_down_add are the separate ops, bit for bit.
void check_moe(Rng& rng, int64_t tokens, int64_t top_k, const cases::WeightSpec& shared_spec,
               int64_t shared_width) {
  SCOPE("T ", tokens, ", K ", top_k, ", shared ", describe(shared_spec), " ", shared_width, " wide");
  const cases::ExpertsCase c{.tokens = tokens, .hidden = 96, .width = 33, .experts = 4, .top_k = top_k};
  const RandomGateUp gate_up(rng, cases::kInt4, c.experts, c.width, c.hidden);
  const RandomGateUp shared_gate_up(rng, shared_spec, 1, shared_width, c.hidden);
  const RandomWeight down(rng, cases::kInt4, c.experts, c.hidden, c.width);
  const RandomWeight shared_down(rng, shared_spec, 1, c.hidden, shared_width);
  Matrix h = random_activations(rng, c.tokens, c.hidden);
  MadeRouting routing = random_routing(rng, c);
  const auto check = [&](Device& device) {
    SCOPE(device.describe());
    Matrix a(c.tokens * c.top_k, c.width), shared_a(c.tokens, shared_width), x = h;
    Matrix a1 = a, shared_a1 = shared_a, x1 = h;
    device.ops().moe_gate_up(a.view(), shared_a.view(), h.view(), gate_up.view(), shared_gate_up.view(),
                             routing.view());
    device.ops().gate_up(shared_a1.view(), h.view(), shared_gate_up.view());
    device.ops().experts_gate_up(a1.view(), h.view(), gate_up.view(), routing.view());
    CHECK(a == a1);
    CHECK(shared_a == shared_a1);
    device.ops().moe_down_add(x.view(), a.view(), shared_a.view(), down.view(), shared_down.view(),
                              routing.view());
    device.ops().linear_add(x1.view(), shared_a.view(), shared_down.view());
    device.ops().experts_down_add(x1.view(), a.view(), down.view(), routing.view());
    CHECK(x == x1);
    if (shared_width == c.width) return;
    CHECK_THROWS(kInternal, device.ops().moe_down_add(x.view(), a.view(), a.view(), down.view(),
                                                      shared_down.view(), routing.view()));
    if (top_k == 1) return;  // as many rows in both, and widths that end in the same row block
    CHECK_THROWS(kInternal, device.ops().moe_gate_up(shared_a.view(), a.view(), h.view(), gate_up.view(),
                                                     shared_gate_up.view(), routing.view()));
  };
  check(reference());
  for (const Subject& s : subjects()) check(*s.device);
}

TEST(moe_ops_are_the_separate_ops) {
  SEEDED(rng);
  for (const int64_t tokens : {1, 2, 5})
    for (const int64_t top_k : {1, 2}) {
      check_moe(rng, tokens, top_k, cases::kBF16, 36);
      check_moe(rng, tokens, top_k, cases::kInt4, 33);  // alike: a device may do both at once
      check_moe(rng, tokens, top_k, cases::kInt4, 36);
    }
}

TEST(route_conforms) {
  SEEDED(rng);
  for (const cases::RouteCase& c : cases::kRouteCases) {
    SCOPE("T ", c.tokens, ", H ", c.hidden, ", E ", c.experts, ", K ", c.top_k);
    const RandomWeight router(rng, cases::kBF16, 1, c.experts, c.hidden);
    const Matrix h = random_activations(rng, c.tokens, c.hidden);
    Oracle oracle(c.tokens, c.top_k);
    std::vector<std::vector<Product>> logits(static_cast<size_t>(c.tokens));
    for (int64_t t = 0; t < c.tokens; ++t) {
      for (int64_t e = 0; e < c.experts; ++e)
        logits[size_t(t)].push_back(product(h.row(t), router.view(), e));
      std::vector<double> best;
      for (const Product& p : logits[size_t(t)]) best.push_back(p.value);
      std::sort(best.begin(), best.end(), std::greater<>());
      for (int64_t i = 0; i < c.top_k; ++i) {
        const double score = 1.0 / (1.0 + std::exp(-best[size_t(i)]));
        oracle.set(t, i, score, 0.25 * logits[size_t(t)][0].magnitude + score);
      }
    }
    conform(oracle, fp32_tolerance(c.hidden), c.tokens, [&](Device& device, int64_t first, int64_t count) {
      Workspace ws(device, 1 << 20);
      Matrix in = h.part(first, count), scores(count, c.top_k);
      const Routing r = device.ops().route(in.view(), router.view(), c.top_k, ws);
      MadeRouting made({r.expert_ids.ptr<int32_t>(), r.expert_ids.ptr<int32_t>() + count * c.top_k},
                       {r.scores.ptr<float>(), r.scores.ptr<float>() + count * c.top_k}, c.experts, c.top_k);
      const Routing sorted = made.view();
      CHECK(std::equal(sorted.offsets.ptr<int32_t>(), sorted.offsets.ptr<int32_t>() + c.experts + 1,
                       r.offsets.ptr<int32_t>()));
      CHECK(std::equal(sorted.sorted_picks.ptr<int32_t>(),
                       sorted.sorted_picks.ptr<int32_t>() + count * c.top_k, r.sorted_picks.ptr<int32_t>()));
      for (int64_t t = 0; t < count; ++t)
        for (int i = 0; i < c.top_k; ++i) {
          scores.row(t)[i] = r.scores.row<float>(t)[i];
          const int32_t chosen = r.expert_ids.row<int32_t>(t)[i];
          CHECK(chosen >= 0 && chosen < c.experts);
          for (int other = 0; other < i; ++other) CHECK(r.expert_ids.row<int32_t>(t)[other] != chosen);
          // The score belongs to the chosen expert.
          const Product& logit = logits[size_t(first + t)][size_t(chosen)];
          CHECK_CLOSE(r.scores.row<float>(t)[i], 1.0 / (1.0 + std::exp(-logit.value)),
                      fp32_tolerance(c.hidden).worst * (1.0 + logit.magnitude));
        }
      return scores;
    });
  }
}

TEST(equal_logits_go_to_the_lowest_experts) {
  SEEDED(rng);
  const RandomWeight router(rng, cases::kBF16, 1, 6, 64);
  Matrix h(2, 64);
  for (int64_t t = 0; t < 2; ++t) std::fill_n(h.row(t), 64, 0.0f);  // all logits are 0
  const auto check = [&](Device& device) {
    SCOPE(device.describe());
    Workspace ws(device, 1 << 16);
    const Routing r = device.ops().route(h.view(), router.view(), 3, ws);
    for (int64_t t = 0; t < 2; ++t)
      for (int i = 0; i < 3; ++i) {
        CHECK_EQ(r.expert_ids.row<int32_t>(t)[i], i);
        CHECK_EQ(r.scores.row<float>(t)[i], 0.5f);
      }
  };
  check(reference());
  for (const Subject& s : subjects()) check(*s.device);
}

TEST(route_gives_its_scratch_back) {
  SEEDED(rng);
  const RandomWeight router(rng, cases::kBF16, 1, 128, 64);
  Matrix h = random_activations(rng, 100, 64);
  Workspace ws(reference(), 1 << 20);
  size_t after_one = 0;
  for (int i = 0; i < 3; ++i) {
    const auto scope = ws.frame();
    reference().ops().route(h.view(), router.view(), 1, ws);
    if (i == 0) after_one = ws.peak();
  }
  CHECK_EQ(ws.peak(), after_one);
}

}  // namespace llama4rt::test
