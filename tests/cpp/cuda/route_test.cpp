// The router on the emulated GPU: choices and scores against products in double, the sort against its
// definition, and the same bits whatever the batch and the number of kernels.
#include "cuda/kernels/route.h"

#include <algorithm>
#include <numeric>

#include "cuda/cuda_device.h"
#include "cuda/device_rows.h"
#include "reference/reference_ops.h"

namespace llama4rt::test {
namespace {

struct Routed {
  std::vector<float> logits, scores;  // [T, E], [T, K]
  std::vector<int32_t> ids, sorted, offsets;
  bool operator==(const Routed& o) const = default;
};

// Runs the kernels with outputs that hold nonsense before.
Routed route(cuda::Stream& stream, const Matrix& h, const Weight& router, int top_k, bool aligned) {
  const int64_t tokens = h.rows();
  const auto poisoned = [&](int64_t size) {
    return DeviceVector<int32_t>(stream, std::vector<int32_t>(size_t(size), 0x7fbadbad));
  };
  const auto logits = poisoned(tokens * router.n), ids = poisoned(tokens * top_k),
             scores = poisoned(tokens * top_k), sorted = poisoned(tokens * top_k),
             offsets = poisoned(router.n + 1);
  const DeviceRows dh(stream, h, aligned);
  const Routing routing{.expert_ids = Tensor(ids.data(), DType::kI32, {tokens, top_k}),
                        .scores = Tensor(scores.data(), DType::kF32, {tokens, top_k}),
                        .sorted_picks = sorted.view(DType::kI32),
                        .offsets = offsets.view(DType::kI32)};
  const cuda::DeviceBuffer scratch(std::max<size_t>(cuda::Route::scratch_bytes(tokens, router.n, top_k), 4));
  const DeviceVector<int32_t> tickets(stream, {0});
  cuda::Route::run(stream, routing, Tensor(logits.data(), DType::kF32, {tokens, router.n}), dh.view(), router,
                   scratch.data(), static_cast<uint32_t*>(tickets.data()));
  const auto floats = [&](const DeviceVector<int32_t>& v) {
    std::vector<float> out;
    for (const int32_t bits : v.fetch(stream)) out.push_back(std::bit_cast<float>(bits));
    return out;
  };
  Routed r{floats(logits), floats(scores), ids.fetch(stream), sorted.fetch(stream), offsets.fetch(stream)};
  CHECK_EQ(tickets.fetch(stream)[0], 0);
  return r;
}

// What the sort must give, by definition.
void check_sorted(const Routed& r, int64_t experts) {
  std::vector<int32_t> sorted, offsets;
  for (int64_t e = 0; e < experts; ++e) {
    offsets.push_back(int32_t(sorted.size()));
    for (size_t pick = 0; pick < r.ids.size(); ++pick)
      if (r.ids[pick] == e) sorted.push_back(int32_t(pick));
  }
  offsets.push_back(int32_t(sorted.size()));
  CHECK(r.sorted == sorted);
  CHECK(r.offsets == offsets);
}

// The choice follows from the logits: best first, ties to the lowest expert.
void check_chosen(const Routed& r, int64_t tokens, int64_t experts, int top_k) {
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<int32_t> order(static_cast<size_t>(experts));
    std::iota(order.begin(), order.end(), 0);
    const float* logits = &r.logits[size_t(t * experts)];
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    for (int i = 0; i < top_k; ++i) {
      CHECK_EQ(r.ids[size_t(t * top_k + i)], order[size_t(i)]);
      const double exact = 1.0 / (1.0 + std::exp(-double(logits[order[size_t(i)]])));
      CHECK_CLOSE(r.scores[size_t(t * top_k + i)], exact, 3e-7 * exact + 1e-37);
    }
  }
}

// Logits against double: fp32 products of activations that were not rounded.
void check_logits(const Routed& r, const Matrix& h, const Weight& router) {
  double worst = 0;
  for (int64_t t = 0; t < h.rows(); ++t)
    for (int64_t e = 0; e < router.n; ++e) {
      double sum = 0, xs = 0, ws = 0;
      for (int64_t k = 0; k < router.k; ++k) {
        const double w = weight_value(router, e, k), x = h.row(t)[k];
        sum += w * x;
        xs += x * x;
        ws += w * w;
      }
      const double size = std::sqrt(xs * ws / double(router.k)) + 1e-30;
      const double error = std::abs(double(r.logits[size_t(t * router.n + e)]) - sum) / size;
      worst = std::isfinite(error) ? std::max(worst, error) : 1e9;
    }
  CHECK_CLOSE(worst, 0.0, 0x1p-24 * (32.0 + 16.0 * std::sqrt(double(router.k))));
}

Routed part(const Routed& r, int64_t token, int64_t experts, int top_k) {
  const auto cut = [&](const auto& v, int64_t width) {
    return std::vector(v.begin() + token * width, v.begin() + (token + 1) * width);
  };
  return {cut(r.logits, experts), cut(r.scores, top_k), cut(r.ids, top_k), {}, {}};
}

void check(Rng& rng, cuda::Stream& stream, const cases::RouteCase& c) {
  SCOPE("T ", c.tokens, ", H ", c.hidden, ", E ", c.experts, ", K ", c.top_k);
  const RandomWeight plain(rng, cases::kBF16, 1, c.experts, c.hidden);
  const DeviceWeight router(stream, plain.view());
  const Matrix h = random_activations(rng, c.tokens, c.hidden);
  const Routed r = route(stream, h, router.view(), c.top_k, true);
  check_logits(r, h, plain.view());
  check_chosen(r, c.tokens, c.experts, c.top_k);
  check_sorted(r, c.experts);
  if (c.tokens < 100) CHECK(route(stream, h, router.view(), c.top_k, false) == r);  // time
  for (const int64_t token : {int64_t(0), c.tokens / 2, c.tokens - 1}) {
    SCOPE("token ", token, " alone");
    const Routed alone = route(stream, h.part(token, 1), router.view(), c.top_k, true);
    CHECK(part(alone, 0, c.experts, c.top_k) == part(r, token, c.experts, c.top_k));
  }
}

}  // namespace

TEST(every_shared_case_conforms) {
  Rng rng(71);
  cuda::Stream stream;
  for (const auto& o : schedules()) {
    SCOPE(describe(o));
    const WithOptions with(o);
    for (const cases::RouteCase& c : cases::kRouteCases) check(rng, stream, c);
  }
}

TEST(many_tokens_take_three_kernels) {
  Rng rng(72);
  cuda::Stream stream;
  size_t turn = 0;
  for (const cases::RouteCase& c : {cases::RouteCase{.tokens = 513, .hidden = 32, .experts = 16, .top_k = 1},
                                    {.tokens = 270, .hidden = 16, .experts = 128, .top_k = 2},
                                    {.tokens = 75, .hidden = 33, .experts = 7, .top_k = 7},
                                    {.tokens = 512, .hidden = 16, .experts = 3, .top_k = 1}}) {
    const WithOptions with(schedules()[turn++ % schedules().size()]);
    check(rng, stream, c);
  }
}

// Against the reference, through the op: the same experts wherever logits are not closer than the
// rounding of fp32 sums.
TEST(cuda_routes_as_the_reference) {
  Rng rng(73);
  cuda::Stream stream;
  CudaDevice device(0);
  ReferenceDevice reference;
  for (const cases::RouteCase& c : cases::kRouteCases) {
    SCOPE("T ", c.tokens, ", H ", c.hidden, ", E ", c.experts, ", K ", c.top_k);
    const RandomWeight plain(rng, cases::kBF16, 1, c.experts, c.hidden);
    const DeviceWeight router(stream, plain.view());
    Matrix h = random_activations(rng, c.tokens, c.hidden);
    Workspace host_space(reference, 1 << 20), device_space(device, 1 << 20);
    const Routing expected = reference.ops().route(h.view(), plain.view(), c.top_k, host_space);
    const DeviceRows dh(stream, h, true);
    const Routing found = device.ops().route(dh.view(), router.view(), c.top_k, device_space);
    std::vector<int32_t> ids(size_t(c.tokens * c.top_k));
    device.copy_to_host(ids.data(), found.expert_ids.data, ids.size() * 4);
    for (int64_t t = 0; t < c.tokens; ++t)
      for (int i = 0; i < c.top_k; ++i) {
        const int32_t mine = ids[size_t(t * c.top_k + i)], theirs = expected.expert_ids.row<int32_t>(t)[i];
        if (mine == theirs) continue;
        double logit[2] = {0, 0}, size = 0;
        for (int64_t k = 0; k < c.hidden; ++k) {
          logit[0] += double(h.row(t)[k]) * double(weight_value(plain.view(), mine, k));
          logit[1] += double(h.row(t)[k]) * double(weight_value(plain.view(), theirs, k));
          size += std::abs(double(h.row(t)[k]));
        }
        CHECK_CLOSE(logit[0], logit[1], 0x1p-22 * size);
      }
  }
}

TEST(equal_logits_go_to_the_lowest_experts) {
  Rng rng(74);
  cuda::Stream stream;
  const RandomWeight plain(rng, cases::kBF16, 1, 70, 64);
  const DeviceWeight router(stream, plain.view());
  for (const int64_t tokens : {2, 300}) {
    Matrix h(tokens, 64);
    for (int64_t t = 0; t < tokens; ++t) std::fill_n(h.row(t), 64, t % 2 ? -0.0f : 0.0f);  // logits 0 or -0
    const Routed r = route(stream, h, router.view(), 3, true);
    for (int64_t pick = 0; pick < tokens * 3; ++pick) {
      CHECK_EQ(r.ids[size_t(pick)], int32_t(pick % 3));
      CHECK_EQ(r.scores[size_t(pick)], 0.5f);
    }
    check_sorted(r, 70);
  }
}

// Whatever a broken token holds, its experts exist and differ, and the other tokens do not see it.
TEST(a_row_of_nan_or_infinity_stays_alone) {
  Rng rng(75);
  cuda::Stream stream;
  const RandomWeight plain(rng, cases::kBF16, 1, 40, 64);
  const DeviceWeight router(stream, plain.view());
  const Matrix h = random_activations(rng, 9, 64);
  const Routed clean = route(stream, h, router.view(), 3, true);
  for (const float poison :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Matrix poisoned = h;
    poisoned.row(4)[10] = poison;
    const Routed r = route(stream, poisoned, router.view(), 3, true);
    check_sorted(r, 40);
    for (int64_t t = 0; t < 9; ++t)
      if (t != 4) CHECK(part(r, t, 40, 3) == part(clean, t, 40, 3));
    const int32_t* ids = &r.ids[12];
    for (int i = 0; i < 3; ++i) CHECK(ids[i] >= 0 && ids[i] < 40);
    CHECK(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
    if (std::isnan(poison)) CHECK(ids[0] == 0 && ids[1] == 1 && ids[2] == 2);  // as the reference
  }
}

TEST(no_tokens_have_no_picks) {
  Rng rng(76);
  cuda::Stream stream;
  CudaDevice device(0);
  const RandomWeight plain(rng, cases::kBF16, 1, 5, 64);
  const DeviceWeight router(stream, plain.view());
  Workspace ws(device, 1 << 16);
  const Routing r = device.ops().route(Tensor(nullptr, DType::kF32, {0, 64}), router.view(), 2, ws);
  std::vector<int32_t> offsets(6, -1);
  device.copy_to_host(offsets.data(), r.offsets.data, offsets.size() * 4);
  CHECK(offsets == std::vector<int32_t>(6, 0));
}

}  // namespace llama4rt::test
