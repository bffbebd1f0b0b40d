// Every planted bug of sample_scan and sample_choose must be caught on small batches.
#include "cuda/kernels/sample_choose.cuh"
#include "cuda/kernels/sample_scan.cuh"
#include "cuda/launch.h"
#include "cuda/sampling_cases.h"
#include "cuda/teeth.h"
#include "planted_bugs/sample_choose_bugs.h"
#include "planted_bugs/sample_scan_bugs.h"
#include "reference/reference_ops.h"

namespace llama4rt::test {
namespace {

constexpr int kThreads = 64, kCapacity = 200;

class SamplingRun {
 public:
  SamplingRun() {
    Rng rng(121);
    for (const int64_t size : {50, 600, 1100}) add(random_sampling_case(rng, 5, size));
    add(signs_and_infinities());
    add(edges());
    add(flat());
  }

  // Scan, ScanRanked and Choose may each be of a broken copy, whose types are its own.
  template <class Args>
  bool scan_is_right(void (*scan)(Args)) {
    return all_right([&](const SampleBatch& batch, Tensor logits, void* best, uint32_t* tickets) {
      launch_scan(scan, batch, logits, best, tickets);
      launch_choose(cuda::sample_choose_kernel<kThreads>, batch, logits, best, tickets);
    });
  }
  template <class Args>
  bool choose_is_right(void (*choose)(Args, int)) {
    return all_right([&](const SampleBatch& batch, Tensor logits, void* best, uint32_t* tickets) {
      launch_scan(cuda::sample_scan_kernel<kThreads, false>, batch, logits, best, tickets);
      launch_choose(choose, batch, logits, best, tickets);
    });
  }

 private:
  void add(SamplingCase c) {
    expected_.push_back(sample_on_host(reference_.ops(), c));
    cases_.push_back(std::move(c));
  }

  static SamplingCase signs_and_infinities() {
    SamplingCase c(9, 520);
    for (int64_t i = 0; i < 9; ++i) {
      for (int64_t j = 0; j < 520; ++j) c.logits.row(i)[j] = j == 7 ? -1.0f : -1.25f - float(j % 7);
      c.rows[size_t(i)].greedy = 1;
    }
    c.logits.row(0)[100] = -0.0f;
    c.logits.row(0)[300] = 0.0f;
    c.logits.row(1)[519] = 5.0f;
    c.logits.row(2)[3] = std::numeric_limits<float>::infinity();
    c.logits.row(3)[0] = 3e38f;  // an edit makes it infinite
    c.edits = {{.id = 0, .bias = 3e38f},
               {.id = 7, .seen = kSeen},
               {.id = 7, .seen = kSeen},
               {.id = 7},
               {.id = 7, .bias = 0.5f}};
    c.rows[3].num_edits = 1;
    c.rows[4].first_edit = c.rows[4].num_edits = 1;
    c.rows[4].repetition_penalty = 2;  // of a negative logit: it falls from the first place
    c.logits.row(4)[0] = -1.5f;
    c.rows[5].first_edit = 2;
    c.rows[5].num_edits = 1;
    c.rows[5].presence_penalty = 2;  // of a token that is not in the output
    c.rows[6].first_edit = 3;
    c.rows[6].num_edits = 1;
    c.rows[6].repetition_penalty = 2;  // of a token not seen
    c.rows[7].first_edit = 4;
    c.rows[7].num_edits = 1;
    return c;
  }
  // Exact numbers: weights of 1, so that targets fall on tokens' borders.
  static SamplingCase edges() {
    SamplingCase c(8, 400);
    for (int64_t i = 0; i < 8; ++i) {
      std::fill_n(c.logits.row(i), 400, -1000.0f);
      for (int64_t j = 0; j < 128; ++j) c.logits.row(i)[3 * j] = 0.0f;
      c.rows[size_t(i)].uniform = double(i) / 8;  // the border of token 16 i
    }
    c.rows[1].uniform = 1 - 0x1p-53;
    c.rows[2].top_p = 0.25;
    c.rows[3].top_k = 64;
    c.rows[4].top_p = 0.25 + 0x1p-50;  // one token more
    c.rows[4].uniform = 0.999;
    c.rows[5].min_p = 1;
    c.logits.row(6)[1] = -0.5f;
    c.rows[6].min_p = 0.7f;
    c.rows[6].uniform = 0.4;
    c.rows[6].top_p = 1 - 1e-9;
    for (int64_t j = 2; j < 400; j += 3) c.logits.row(7)[j] = -2.0f - float(j) * 0.02f;
    c.rows[7].top_p = 0.985;
    return c;
  }
  // More equal tokens than the list holds, and weights where the grid is coarse.
  static SamplingCase flat() {
    SamplingCase c(4, 900);
    for (int64_t i = 0; i < 4; ++i) {
      for (int64_t j = 0; j < 900; ++j) c.logits.row(i)[j] = -float(j % 97) * (i < 2 ? 1e-3f : 0.3f);
      c.rows[size_t(i)].uniform = 0.1 + 0.25 * double(i);
      c.rows[size_t(i)].top_p = 0.9999999;
    }
    c.rows[1].top_k = 500;
    c.rows[2].top_p = 0.99999;
    c.logits.row(3)[0] = 12.0f;  // nearly all of the weight, but top_p wants the far ones too
    c.rows[3].top_p = 1 - 1e-10;
    c.rows[3].uniform = 1 - 1e-7;
    return c;
  }

  template <class Args>
  void launch_scan(void (*scan)(Args), const SampleBatch& batch, Tensor logits, void* best,
                   uint32_t* tickets) {
    const int size = int(logits.size(1)), runs = (size + 255) / 256;
    Args args{};
    fill(args, batch, logits, best, tickets);
    cuda::launch("sample_scan", scan,
                 {.grid_x = (runs + 1) / 2, .grid_y = int(batch.num_rows), .threads = kThreads}, stream_,
                 args);
  }
  template <class Args>
  void launch_choose(void (*choose)(Args, int), const SampleBatch& batch, Tensor logits, void* best,
                     uint32_t* tickets) {
    const int size = int(logits.size(1)), runs = (size + 255) / 256;
    Args args{};
    fill(args, batch, logits, best, tickets);
    cuda::launch(
        "sample_choose", choose,
        {.grid_x = int(batch.num_rows), .threads = kThreads, .dynamic_shared = size_t(runs + kCapacity) * 8},
        stream_, args, kCapacity);
  }
  template <class Args>
  static void fill(Args& args, const SampleBatch& batch, const Tensor& logits, void* best,
                   uint32_t* tickets) {
    args.logits = logits.ptr<float>();
    args.best_of_run = static_cast<decltype(args.best_of_run)>(best);
    args.tickets = tickets;
    args.batch = batch;
    args.logits_stride = logits.stride0;
    args.vocabulary = int(logits.size(1));
  }

  template <class Run>
  bool all_right(const Run& run) {
    for (size_t i = 0; i < cases_.size(); ++i) {
      const SamplingCase& c = cases_[i];
      const int64_t count = c.logits.rows(), runs = (c.logits.columns() + 255) / 256;
      const cuda::DeviceBuffer best(size_t(count * runs) * 8);
      const DeviceVector<uint32_t> tickets(stream_, std::vector<uint32_t>(size_t(count), 0));
      const Sampled found = sample_on_device(stream_, c, false, [&](const SampleBatch& batch, Tensor logits) {
        run(batch, logits, best.data(), static_cast<uint32_t*>(tickets.data()));
      });
      if (!difference(c, found, expected_[i]).empty()) return false;
    }
    return true;
  }

  cuda::Stream stream_;
  ReferenceDevice reference_;
  std::vector<SamplingCase> cases_;
  std::vector<Sampled> expected_;
};

// weights[i] = weight_of(logits[i])
__global__ void __launch_bounds__(kThreads)
    weights_kernel(uint64_t* weights, const float* logits, int count) {
  for (int i = cuda::thread_x(); i < count; i += kThreads)
    weights[i] = cuda::weight_of(logits[i], 3.25f, 0.7f, 1e-9f);
}

}  // namespace

TEST(weights_have_the_bits_of_the_host) {
  cuda::Stream stream;
  std::vector<float> logits;
  for (float x = 3.25f; x > -20; x -= 0.0017f) logits.push_back(x);
  logits.push_back(-std::numeric_limits<float>::infinity());
  const DeviceVector<float> dlogits(stream, logits);
  const DeviceVector<uint64_t> weights(stream, std::vector<uint64_t>(logits.size()));
  cuda::launch("weights", weights_kernel, {.threads = kThreads, .alone = true}, stream,
               static_cast<uint64_t*>(weights.data()), static_cast<const float*>(dlogits.data()),
               int(logits.size()));
  const std::vector<uint64_t> found = weights.fetch(stream);
  for (size_t i = 0; i < logits.size(); ++i) {
    const float e = sampling_exp((logits[i] - 3.25f) / 0.7f);
    CHECK_EQ(found[i], e < 1e-9f ? 0 : uint64_t(std::ldexp(double(weight_on_grid(e)), kWeightBits)));
  }
}

TEST(every_bug_of_the_scan_is_caught) {
  SamplingRun run;
  CHECK_EQ(caught([&] { return run.scan_is_right(cuda::sample_scan_kernel<kThreads, false>); }), "");
#define BUG(name) \
  expect_caught(#name, [&] { return run.scan_is_right(bugs::name::sample_scan_kernel<kThreads, false>); });
  LLAMA4RT_BUGS_OF_SAMPLE_SCAN(BUG)
#undef BUG
}

TEST(every_bug_of_the_choice_is_caught) {
  SamplingRun run;
  CHECK_EQ(caught([&] { return run.choose_is_right(cuda::sample_choose_kernel<kThreads>); }), "");
#define BUG(name) \
  expect_caught(#name, [&] { return run.choose_is_right(bugs::name::sample_choose_kernel<kThreads>); });
  LLAMA4RT_BUGS_OF_SAMPLE_CHOOSE(BUG)
#undef BUG
}

}  // namespace llama4rt::test
