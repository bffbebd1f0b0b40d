// Sampling on the emulated GPU against the reference: the same tokens, whatever the parameters, and
// the same bits for a row whatever else is in the batch.
#include "cuda/kernels/sampling.h"

#include "cuda/cuda_device.h"
#include "cuda/sampling_cases.h"
#include "reference/reference_ops.h"

namespace llama4rt::test {
namespace {

Sampled on_gpu(cuda::Stream& stream, const SamplingCase& c, bool aligned) {
  const int64_t count = c.logits.rows(), size = c.logits.columns();
  const cuda::DeviceBuffer scratch(cuda::Sample::scratch_bytes(count, size));
  const DeviceVector<uint32_t> tickets(stream, std::vector<uint32_t>(size_t(count), 0));
  const Sampled out = sample_on_device(stream, c, aligned, [&](const SampleBatch& batch, Tensor logits) {
    cuda::Sample::run(stream, batch, logits, scratch.data(), static_cast<uint32_t*>(tickets.data()));
  });
  CHECK(tickets.fetch(stream) == std::vector<uint32_t>(size_t(count), 0));
  return out;
}

void check(cuda::Stream& stream, const SamplingCase& c, bool aligned) {
  ReferenceDevice reference;
  CHECK_EQ(difference(c, on_gpu(stream, c, aligned), sample_on_host(reference.ops(), c)), "");
}

SamplingCase plain_greedy(Rng& rng, int64_t count, int64_t size) {
  SamplingCase c(count, size);
  for (int64_t i = 0; i < count; ++i) {
    fill_logits(rng, c.logits.row(i), size, 3, i % 2 == 0);
    c.rows[size_t(i)].greedy = 1;
  }
  return c;
}

}  // namespace

TEST(every_parameter_conforms) {
  Rng rng(101);
  cuda::Stream stream;
  size_t turn = 0;
  for (const int64_t size : {1, 2, 31, 50, 255, 256, 257, 1000})
    for (int i = 0; i < (size > 500 ? 2 : 4); ++i, ++turn) {
      SCOPE("V ", size, ", batch ", i);
      const WithOptions with(schedules()[turn % schedules().size()]);
      check(stream, random_sampling_case(rng, 4, size), turn % 2 == 0);
    }
}

TEST(plain_greedy_rows_take_one_kernel) {
  Rng rng(102);
  cuda::Stream stream;
  for (const auto& o : schedules())
    for (const int64_t size : {1, 50, 256, 3000, 5003}) {
      SCOPE(describe(o), ", V ", size);
      const WithOptions with(o);
      SamplingCase c = plain_greedy(rng, 3, size);
      c.logits.row(1)[size - 1] = -std::numeric_limits<float>::infinity();
      check(stream, c, size % 2 == 0);
    }
}

TEST(the_vocabulary_of_llama_4_conforms) {
  Rng rng(103);
  cuda::Stream stream;
  SamplingCase greedy = plain_greedy(rng, 1, 202'048);
  check(stream, greedy, true);
  SamplingCase c(1, 202'048);
  fill_logits(rng, c.logits.row(0), 202'048, 3, false);
  SampleRow& row = c.rows[0];
  row.uniform = rng.uniform(0, 1);
  row.temperature = 0.8f;
  row.top_p = 0.95;
  row.num_logprobs = 5;
  add_edits(rng, c, row, 202'048);
  check(stream, c, true);
}

TEST(all_logits_equal) {
  cuda::Stream stream;
  SamplingCase c(5, 700);
  for (int64_t i = 0; i < 5; ++i) {
    for (int64_t j = 0; j < 700; ++j) c.logits.row(i)[j] = j % 2 ? 0.0f : -0.0f;  // the lowest ids are kept
    c.rows[size_t(i)].uniform = 0.999;
  }
  c.rows[0].top_k = 300;
  c.rows[1].top_p = 0.5;
  c.rows[2].top_k = 400;
  c.rows[2].top_p = 0.25;
  c.rows[3].greedy = 1;
  c.rows[3].num_logprobs = 20;
  c.rows[4].top_k = 1;
  check(stream, c, true);
}

// More tokens than the kernel gathers are needed.
TEST(flat_distributions_conform) {
  Rng rng(105);
  cuda::Stream stream;
  SamplingCase c(3, 6001);
  for (int64_t i = 0; i < 3; ++i) {
    for (int64_t j = 0; j < 6001; ++j) c.logits.row(i)[j] = -float(j % 977) * 1e-3f;
    c.rows[size_t(i)].uniform = 0.7;
  }
  c.rows[0].top_p = 0.9;
  c.rows[1].top_k = 5000;
  c.rows[2].top_k = 5500;
  c.rows[2].top_p = 0.1;
  check(stream, c, true);
}

// A row among others, alone, and under every schedule.
TEST(a_row_does_not_see_the_batch) {
  Rng rng(104);
  cuda::Stream stream;
  CudaDevice device(0);
  const SamplingCase all = random_sampling_case(rng, 5, 600);
  const Sampled together = on_gpu(stream, all, true);
  for (int64_t i = 0; i < 5; ++i) {
    SamplingCase one(1, 600);
    one.logits = all.logits.part(i, 1);
    one.rows[0] = all.rows[size_t(i)];
    one.edits = all.edits;
    one.masks = all.masks;
    const WithOptions with(schedules()[size_t(i) % schedules().size()]);
    const Sampled alone = sample_on_device(stream, one, false, [&](const SampleBatch& batch, Tensor logits) {
      device.ops().sample(batch, logits);
      device.copy_to_host(nullptr, nullptr, 0);  // waits for the device's stream
    });
    const SampledRow &a = alone.rows[0], &b = together.rows[size_t(i)];
    CHECK_EQ(a.token, b.token);
    if (a.token < 0) continue;
    CHECK_EQ(a.logit, b.logit);
    if (one.rows[0].num_logprobs >= 0) CHECK_EQ(a.total, b.total);
  }
}

}  // namespace llama4rt::test
