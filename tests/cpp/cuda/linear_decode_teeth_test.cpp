// Every barrier, wait and fence of linear_decode removed, one at a time (teeth.h).
#include "cuda/cuda_device.h"
#include "cuda/kernels/linear_decode.h"
#include "cuda/products.h"
#include "cuda/teeth.h"
#include "ops/made_routing.h"

namespace llama4rt::test {
namespace {

void check(const cases::WeightSpec& spec, size_t fewest_places) {
  Rng rng(12);
  cuda::Stream stream;
  const int64_t t = 17, n = 40, k = 1700;  // two work items and two splits, the second of them not full
  const RandomWeight weight(rng, spec, 1, n, k);
  const DeviceWeight dw(stream, weight.view());
  Matrix x = uneven(rng, t, k);
  Matrix expected(t, n);
  for (int64_t row = 0; row < t; ++row)
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < k; ++j)
        sum += double(to_float(to_bf16(x.row(row)[j]))) * double(weight_value(weight.view(), i, j));
      expected.row(row)[i] = float(sum);
    }
  check_teeth(
      "linear_decode",
      [&] {
        Matrix in = x, out(t, n);
        DeviceMatrix dx(stream, in), dout(stream, out);
        const cuda::DeviceBuffer scratch(cuda::LinearDecode::scratch_bytes(dw.view(), t));  // never written
        const cuda::DeviceBuffer tickets(cuda::LinearDecode::ticket_bytes(dw.view()));
        stream.fill(tickets.data(), 0, tickets.size());
        cuda::LinearDecode::run(stream, dout.view(), dx.view(), dw.view(), Finish::kStore, scratch.data(),
                                tickets.as<uint32_t>());
        dout.fetch(stream);
        return all_close(out, expected, 1e-2);
      },
      fewest_places);
}

}  // namespace

TEST(every_break_with_int4_is_caught) {
  check({.kind = WeightKind::kInt4, .group_size = 64, .zeros = true}, 8);
}
TEST(every_break_with_bf16_is_caught) { check(cases::kBF16, 7); }

// What experts add to it: the barrier after their offsets are read.
TEST(every_break_with_experts_is_caught) {
  Rng rng(13);
  cuda::Stream stream;
  const int64_t t = 3, n = 20, k = 1100, e = 5;
  const RandomWeight experts(rng, cases::kInt8, e, n, k);
  const DeviceWeight device_experts(stream, experts.view());
  MadeRouting routing({4, 1, 4}, {1.0f, 1.0f, 1.0f}, e, 1);
  const DeviceRouting device_routing(stream, routing);
  Matrix a = uneven(rng, t, k), x = uneven(rng, t, n), expected = x;
  for (int64_t row = 0; row < t; ++row)
    for (int64_t i = 0; i < n; ++i) {
      const Weight w = expert_view(experts.view(), routing.expert(row));
      double sum = 0;
      for (int64_t j = 0; j < k; ++j)
        sum += double(to_float(to_bf16(a.row(row)[j]))) * double(weight_value(w, i, j));
      expected.row(row)[i] += float(sum);
    }
  check_teeth(
      "linear_decode",
      [&] {
        CudaDevice device(0);
        Matrix out = x;
        DeviceMatrix da(stream, a), dout(stream, out);
        device.ops().experts_down_add(dout.view(), da.view(), device_experts.view(), device_routing.view());
        device.copy_to_host(nullptr, nullptr, 0);
        dout.fetch(stream);
        return all_close(out, expected, 1e-2);
      },
      9);
}

}  // namespace llama4rt::test
