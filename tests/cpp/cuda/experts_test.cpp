// Products of routed experts on the emulated GPU, with and without a shared expert beside them, against the
// reference device.
#include "cuda/kernels/experts.h"

#include <cmath>

#include "cuda/devices.h"
#include "cuda/products.h"
#include "cuda/simt_test.h"
#include "ops/made_routing.h"

namespace llama4rt::test {
namespace {

void wait() { devices().cuda.copy_to_host(nullptr, nullptr, 0); }

// gate_up: a [T * K, F], shared_a [T, F], h [T, H].  Returns a, then shared_a.
struct GateUp {
  const cases::ExpertsCase& c;
  RandomGateUp experts, shared;
  DeviceWeight device_experts, device_shared;
  GateUp(Rng& rng, const cases::ExpertsCase& the_case, const cases::WeightSpec& spec,
         const cases::WeightSpec& shared_spec)
      : c(the_case),
        experts(rng, spec, c.experts, c.width, c.hidden),
        shared(rng, shared_spec, 1, c.width, c.hidden),
        device_experts(devices().stream, experts.view()),
        device_shared(devices().stream, shared.view()) {}

  std::pair<Matrix, Matrix> run(Matrix h, MadeRouting routing, bool with_shared) const {
    Matrix a(h.rows() * c.top_k, c.width), shared_a(h.rows(), c.width);
    const DeviceRouting dr(devices().stream, routing);
    DeviceMatrix dh(devices().stream, h), da(devices().stream, a), ds(devices().stream, shared_a);
    if (with_shared)
      devices().cuda.ops().moe_gate_up(da.view(), ds.view(), dh.view(), device_experts.view(),
                                       device_shared.view(), dr.view());
    else
      devices().cuda.ops().experts_gate_up(da.view(), dh.view(), device_experts.view(), dr.view());
    wait();
    da.fetch(devices().stream);
    if (with_shared) ds.fetch(devices().stream);
    return {a, shared_a};
  }
};

void check_swiglu(const Matrix& found, const Matrix& expected, const Matrix& h, int64_t pick, int64_t token,
                  const Weight& w, double score) {
  for (int64_t f = 0; f < found.columns(); ++f) {
    const double g = score * magnitude(h.row(token), w, cpu16::gate_row(f));
    const double u = score * magnitude(h.row(token), w, cpu16::up_row(f));
    const double want = expected.row(pick)[f];
    CHECK_CLOSE(found.row(pick)[f], want, sum_tolerance(w.k) * (2 * g * u + g + u + std::abs(want)) + 1e-37);
  }
}

void check_gate_up(Rng& rng, const cases::ExpertsCase& c, const cases::WeightSpec& spec,
                   const cases::WeightSpec& shared_spec) {
  SCOPE("gate_up, ", describe(c), ", ", weight_kind_name(spec.kind), ", group ", spec.group_size, ", shared ",
        weight_kind_name(shared_spec.kind));
  const GateUp g(rng, c, spec, shared_spec);
  const Matrix h = uneven_activations(rng, c.tokens, c.hidden);
  MadeRouting routing = random_routing(rng, c);
  Matrix rounded = rounded_to_bf16(h), a(c.tokens * c.top_k, c.width), shared_a(c.tokens, c.width);
  devices().reference.ops().moe_gate_up(a.view(), shared_a.view(), rounded.view(), g.experts.view(),
                                        g.shared.view(), routing.view());
  const auto [alone, unused] = g.run(h, routing, false);
  const auto [together, found_shared] = g.run(h, routing, true);
  CHECK(alone.intact() && together.intact() && found_shared.intact());
  CHECK(alone == together);
  for (int64_t pick = 0; pick < a.rows(); ++pick)
    check_swiglu(together, a, rounded, pick, pick / c.top_k,
                 expert_view(g.experts.view(), routing.expert(pick)), double(routing.score(pick)));
  for (int64_t t = 0; t < c.tokens; ++t)
    check_swiglu(found_shared, shared_a, rounded, t, t, g.shared.view(), 1);
}

// down_add: x [T, H], a [T * K, F], shared_a [T, F].
struct Down {
  const cases::ExpertsCase& c;
  RandomWeight experts, shared;
  DeviceWeight device_experts, device_shared;
  Down(Rng& rng, const cases::ExpertsCase& the_case, const cases::WeightSpec& spec,
       const cases::WeightSpec& shared_spec)
      : c(the_case),
        experts(rng, spec, c.experts, c.hidden, c.width),
        shared(rng, shared_spec, 1, c.hidden, c.width),
        device_experts(devices().stream, experts.view()),
        device_shared(devices().stream, shared.view()) {}

  Matrix run(Matrix x, Matrix a, Matrix shared_a, MadeRouting routing, bool with_shared) const {
    const DeviceRouting dr(devices().stream, routing);
    DeviceMatrix dx(devices().stream, x), da(devices().stream, a), ds(devices().stream, shared_a);
    if (with_shared)
      devices().cuda.ops().moe_down_add(dx.view(), da.view(), ds.view(), device_experts.view(),
                                        device_shared.view(), dr.view());
    else
      devices().cuda.ops().experts_down_add(dx.view(), da.view(), device_experts.view(), dr.view());
    wait();
    dx.fetch(devices().stream);
    return x;
  }
};

void check_down(Rng& rng, const cases::ExpertsCase& c, const cases::WeightSpec& spec,
                const cases::WeightSpec& shared_spec, bool with_shared) {
  SCOPE("down_add, ", describe(c), ", ", weight_kind_name(spec.kind), ", group ", spec.group_size,
        with_shared ? ", shared " : ", no shared ", weight_kind_name(shared_spec.kind));
  const Down d(rng, c, spec, shared_spec);
  const Matrix x = random_activations(rng, c.tokens, c.hidden);
  Matrix a = rounded_to_bf16(uneven_activations(rng, c.tokens * c.top_k, c.width));
  Matrix shared_a = rounded_to_bf16(uneven_activations(rng, c.tokens, c.width));
  MadeRouting routing = random_routing(rng, c);
  const Matrix found = d.run(x, a, shared_a, routing, with_shared);
  CHECK(found.intact());
  Matrix expected = x;
  if (with_shared)
    devices().reference.ops().moe_down_add(expected.view(), a.view(), shared_a.view(), d.experts.view(),
                                           d.shared.view(), routing.view());
  else
    devices().reference.ops().experts_down_add(expected.view(), a.view(), d.experts.view(), routing.view());
  for (int64_t t = 0; t < c.tokens; ++t)
    for (int64_t n = 0; n < c.hidden; ++n) {
      double size = std::abs(double(x.row(t)[n])) + std::abs(double(expected.row(t)[n]));
      if (with_shared) size += magnitude(shared_a.row(t), d.shared.view(), n);
      for (int64_t pick = t * c.top_k; pick < (t + 1) * c.top_k; ++pick)
        size += magnitude(a.row(pick), expert_view(d.experts.view(), routing.expert(pick)), n);
      CHECK_CLOSE(found.row(t)[n], expected.row(t)[n], sum_tolerance(c.width) * size + 1e-37);
    }
}

}  // namespace

TEST(every_shared_case_conforms) {
  Rng rng(2);
  size_t turn = 0;
  for (const cases::ExpertsCase& c : cases::kExpertsCases)
    for (int i = 0; i < 2; ++i, ++turn) {
      const WithOptions with(schedules()[turn % 3]);
      const cases::WeightSpec spec = spec_of_turn(turn * 5);
      check_gate_up(rng, c, spec, turn % 4 == 3 ? cases::kBF16 : spec);
      check_down(rng, c, spec, turn % 4 == 3 ? cases::kBF16 : spec, i == 0);
    }
}

TEST(every_kind_of_weight_conforms) {
  Rng rng(3);
  for (const cases::WeightSpec& each : cases::kWeightSpecs) {
    const cases::ExpertsCase c{.tokens = 3, .hidden = 210, .width = 23, .experts = 5, .top_k = 2};
    const cases::WeightSpec spec = on_gpu(each);
    check_gate_up(rng, c, spec, spec);
    check_down(rng, c, spec, spec, true);
  }
}

// A shared expert of another table, or of the same: two launches, or one.
TEST(shared_experts_of_general_weights_conform) {
  Rng rng(6);
  const cases::ExpertsCase c{.tokens = 2, .hidden = 1100, .width = 20, .experts = 3, .top_k = 2};
  cases::WeightSpec other = kGeneralSpecs[5];
  other.table = cases::kWideTable;
  for (const cases::WeightSpec& shared : {kGeneralSpecs[5], other})
    check_gate_up(rng, c, kGeneralSpecs[5], shared);
  check_down(rng, {.tokens = 2, .hidden = 20, .width = 1100, .experts = 3}, kGeneralSpecs[0],
             kGeneralSpecs[0], true);
  check_down(rng, {.tokens = 2, .hidden = 20, .width = 1100, .experts = 3}, kGeneralSpecs[0], cases::kInt4,
             true);
}

// Two splits of K; more than 256 tokens and picks, which walk over the splits one after the other; 40
// experts, some of them beyond the first 32.
TEST(splits_of_k_conform) {
  Rng rng(4);
  for (const auto& o : schedules()) {
    SCOPE(describe(o));
    const WithOptions with(o);
    check_gate_up(rng, {.tokens = 9, .hidden = 1100, .width = 9, .experts = 3}, cases::kInt4, cases::kInt4);
    check_down(rng, {.tokens = 3, .hidden = 20, .width = 2060, .experts = 40, .top_k = 2}, cases::kBF16,
               cases::kBF16, true);
  }
  check_gate_up(rng, {.tokens = 129, .hidden = 1030, .width = 3, .experts = 3}, cases::kInt8, cases::kInt8);
  check_down(rng, {.tokens = 66, .hidden = 5, .width = 1030, .experts = 3, .top_k = 3}, cases::kInt4,
             cases::kInt4, true);
}

// What a token gets does not depend on who else is in the batch: not on the work item it shares, not on how the
// splits of K run.
TEST(batch_size_changes_no_bit) {
  Rng rng(5);
  const cases::ExpertsCase c{.tokens = 133, .hidden = 1100, .width = 10, .experts = 4};
  const GateUp g(rng, c, cases::kInt4, cases::kInt4);
  const Matrix h = uneven_activations(rng, c.tokens, c.hidden);
  const MadeRouting routing = random_routing(rng, c);
  const auto [all, all_shared] = g.run(h, routing, true);
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 1}, {130, 3}, {20, 9}, {40, 33}}) {
    SCOPE("tokens ", first, " to ", first + count);
    const auto [a, shared] = g.run(h.part(first, count), routing.part(first, count), true);
    CHECK(a == all.part(first, count));
    CHECK(shared == all_shared.part(first, count));
  }
}

// Launched with one routing, replayed with another: nothing on the host has looked at it.
TEST(a_graph_follows_the_routing) {
  Rng rng(6);
  const cases::ExpertsCase c{.tokens = 6, .hidden = 100, .width = 20, .experts = 5};
  const GateUp g(rng, c, cases::kInt4, cases::kInt4);
  Matrix h = uneven_activations(rng, c.tokens, c.hidden);
  MadeRouting all_to_one({3, 3, 3, 3, 3, 3}, std::vector<float>(6, 0.5f), c.experts, 1);
  MadeRouting spread({4, 0, 1, 4, 2, 3}, {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f}, c.experts, 1);
  const auto [expected, expected_shared] = g.run(h, spread, true);

  using Experts = cuda::ExpertsDecode;
  cuda::Stream stream;
  Matrix a(c.tokens, c.width), shared_a(c.tokens, c.width);
  DeviceMatrix dh(stream, h), da(stream, a), ds(stream, shared_a);
  const DeviceRouting routing(stream, all_to_one);
  const Weight& w = g.device_experts.view();
  const cuda::DeviceBuffer scratch(Experts::scratch_bytes(w, c.tokens, 1, true)),
      tickets(Experts::ticket_bytes(w));
  stream.fill(tickets.data(), 0, tickets.size());
  cuda::Graph graph(stream, [&] {
    Experts::gate_up(stream, da.view(), dh.view(), w, routing.view(), {g.device_shared.view(), ds.view()},
                     scratch.data(), tickets.as<uint32_t>());
  });
  graph.launch(stream);
  stream.synchronize();
  const Routing from = spread.view(), to = routing.view();
  for (const auto& [dst, src] : {std::pair{to.scores, from.scores},
                                 {to.expert_ids, from.expert_ids},
                                 {to.sorted_picks, from.sorted_picks},
                                 {to.offsets, from.offsets}})
    stream.copy_to_device(dst.data, src.data, size_t(src.numel()) * 4);
  graph.launch(stream);
  da.fetch(stream);
  ds.fetch(stream);
  CHECK(a == expected);
  CHECK(shared_a == expected_shared);
}

}  // namespace llama4rt::test
