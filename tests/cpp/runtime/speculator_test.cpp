// How many guesses the speculator takes: by what it has learnt of their worth and their cost.
#include "runtime/speculation/speculator.h"

#include <random>

#include "test.h"

namespace llama4rt {
namespace {

StepWork small_work() {
  StepWork work;
  work.shared_bytes = 1e6;
  work.row_macs = 1e6;
  return work;
}

void teach(StepCost& cost, double mac_seconds) {
  for (int i = 0; i < 50; ++i) {
    cost.observe({1, 1, 100}, 1e-3);
    for (const int rows : {2, 3, 5, 9, 17})
      cost.observe({1, rows, 100}, 1e-3 + (rows - 1) * 1e6 * mac_seconds);
  }
}

TEST(step_cost_learns_what_bytes_and_guesses_take) {
  StepCost cost(small_work());
  teach(cost, 2e-10);
  CHECK(std::abs(cost.seconds({1, 1, 100}) - 1e-3) < 1e-5);
  CHECK(std::abs(cost.seconds({1, 5, 100}) - 1.8e-3) < 1e-5);
  // Of the next steps, one that took very long counts as one that took twice as long, and fades.
  cost.observe({1, 1, 100}, 10.0);
  CHECK(cost.seconds({1, 1, 100}) < 1.1e-3);
  for (int i = 0; i < 80; ++i) cost.observe({1, 1, 100}, 1e-3);
  CHECK(std::abs(cost.seconds({1, 1, 100}) - 1e-3) < 1e-5);
}

TEST(step_cost_counts_experts_and_contexts) {
  StepWork work = small_work();
  work.expert_bytes = 1.6e7;
  work.num_experts = 16;
  work.kv_bytes = 100;
  work.kv_macs = 10;
  work.local_share = 0.75;
  work.local_context = 1000;
  const StepCost cost(work);
  CHECK(std::abs(cost.bytes({1, 1, 0}) - 2e6) < 1);  // one of 16 experts
  CHECK(std::abs(cost.bytes({1, 2, 0}) - (1e6 + 1.6e7 * (1 - 15.0 / 16 * 15 / 16))) < 1);
  CHECK(std::abs(cost.bytes({1, 1, 4000}) - 2e6 - 100 * (0.75 * 1000 + 0.25 * 4000)) < 1);
  CHECK(std::abs(cost.bytes({2, 2, 1000}) - cost.bytes({2, 2, 0}) - 100 * 1000) < 1);
  CHECK(std::abs(cost.guess_macs({1, 3, 4000}) - 2 * (1e6 + 10 * (0.75 * 1000 + 0.25 * 4000))) < 1);
}

// Guesses what it is told to, with one class of evidence.
class Told final : public Drafter {
 public:
  void propose(std::span<Draft> drafts) override {
    for (Draft& draft : drafts) {
      draft.tokens.assign(size_t(draft.most), token);
      draft.evidence.assign(size_t(draft.most), 3);
    }
  }
  void forget(const Sequence& /*sequence*/) override { ++forgotten; }
  int32_t token = 1;
  int forgotten = 0;
};

// Runs `steps` steps of one sequence whose tokens are right with a chance of `right`; returns guesses a step.
double guesses_a_step(double right, bool always, int steps) {
  SchedulerOptions options;
  options.num_global_blocks = 4096;
  Scheduler scheduler(options);
  Sequence s;
  s.tokens = {1, 1};
  s.num_prompt = 2;
  scheduler.add(s);
  scheduler.commit(scheduler.schedule()[0], 2);
  s.tokens.push_back(1);
  Speculator speculator(std::make_unique<Told>(), small_work(), always);
  std::mt19937 random(1);
  int64_t used = 0;
  for (int i = 0; i < steps; ++i) {
    const std::vector<Chunk>& chunks = scheduler.schedule();
    speculator.choose(scheduler, chunks, std::vector<Speculator::Wish>{{.chunk = 0, .most = 16}});
    const Chunk chunk = chunks[0];
    const double seconds = 1e-3 + 0.25e-3 * double(chunk.guesses.size());
    used += int64_t(chunk.guesses.size());
    for (int64_t p = chunk.begin; p < chunk.end(); ++p) {
      const bool came = random() % 1000 < uint32_t(right * 1000);
      const bool goes_on = came && p + 1 < chunk.end();
      scheduler.commit({&s, p, goes_on ? 1 : int(chunk.end() - p)}, 1);
      s.tokens.push_back(came ? 1 : 2);
      if (!goes_on) break;
    }
    speculator.learn(seconds);
  }
  const SpeculationStats& stats = speculator.stats();
  CHECK_EQ(stats.sequence_steps, steps);
  CHECK_EQ(stats.tokens, s.num_output() - 1);
  int64_t drafted = 0;
  for (int i = 0; i < kMostGuesses; ++i) {
    drafted += stats.drafted[size_t(i)];
    CHECK(stats.accepted[size_t(i)] <= stats.drafted[size_t(i)]);
    if (i > 0) CHECK(stats.drafted[size_t(i)] <= stats.drafted[size_t(i - 1)]);
  }
  CHECK_EQ(drafted, used);
  scheduler.release(s);
  speculator.forget(s);
  return double(used) / steps;
}

TEST(takes_no_guess_where_none_comes_true_and_many_where_all_do) {
  CHECK(guesses_a_step(0.0, /*always=*/false, 500) < 0.1);
  CHECK(guesses_a_step(0.05, false, 500) < 0.3);
  CHECK(guesses_a_step(0.99, false, 500) > 8);
  CHECK_EQ(guesses_a_step(0.0, /*always=*/true, 50), 16.0);
}

}  // namespace
}  // namespace llama4rt
