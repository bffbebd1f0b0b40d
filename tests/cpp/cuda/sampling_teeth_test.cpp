// Every barrier, fence and shuffle of the sampling kernels removed, one at a time (teeth.h).
#include "cuda/cuda_device.h"
#include "cuda/sampling_cases.h"
#include "cuda/teeth.h"
#include "reference/reference_ops.h"

namespace llama4rt::test {

TEST(every_break_is_caught) {
  Rng rng(111);
  cuda::Stream stream;
  ReferenceDevice reference;
  const int64_t size = 5000;  // three blocks of the scan meet
  SamplingCase c(4, size);
  for (int64_t i = 0; i < 4; ++i) {
    fill_logits(rng, c.logits.row(i), size, 2, true);
    c.rows[size_t(i)].uniform = 0.37;
    c.rows[size_t(i)].top_p = 0.7;
  }
  // The best token before any edit stands beside edited ones, and an edited one is chosen.
  for (int64_t i = 0; i < 100; ++i)
    c.edits.push_back({.id = int32_t(50 * i + 7), .bias = i == 96 ? 30.0f : rng.uniform(-4, 4)});
  c.rows[0].num_edits = 100;
  c.logits.row(0)[4806] = 15;
  c.rows[0].num_logprobs = 3;
  c.rows[0].top_k = 900;
  c.rows[1].num_logprobs = 2;  // and no edit
  c.rows[2].greedy = 1;
  c.rows[2].num_logprobs = 0;
  c.rows[3].top_k = 20;  // found among those gathered
  c.rows[3].temperature = 0.3f;
  const Sampled expected = sample_on_host(reference.ops(), c);
  check_teeth(
      "sampling",
      [&] {
        CudaDevice device(0);  // new scratch, never written
        const Sampled found = sample_on_device(stream, c, true, [&](const SampleBatch& batch, Tensor logits) {
          device.ops().sample(batch, logits);
          device.copy_to_host(nullptr, nullptr, 0);
        });
        return difference(c, found, expected).empty();
      },
      20);
}

}  // namespace llama4rt::test
