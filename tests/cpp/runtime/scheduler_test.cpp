// The scheduler with a simulated cache: every slot remembers which whole prefix was written to it, every read
// is checked, and the "model" picks the next token from the prefix alone. Whatever the blocks, the chunk, the
// budget, preemption and the prefix cache do, each sequence must produce the tokens it produces alone.
#include "runtime/sequences/scheduler.h"

#include <algorithm>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "base/checked_math.h"
#include "test.h"

namespace llama4rt {
namespace {

using Tokens = std::vector<int32_t>;

uint64_t extend_hash(uint64_t h, int32_t token) {
  h ^= uint64_t(uint32_t(token)) + 0x9e3779b97f4a7c15u + (h << 6) + (h >> 2);
  return h * 0xff51afd7ed558ccdu;
}

int32_t next_token(uint64_t prefix_hash) { return int32_t(prefix_hash >> 33) % 3; }

Tokens alone(Tokens tokens, int output) {
  for (int i = 0; i < output; ++i) {
    uint64_t h = 1;
    for (int32_t token : tokens) h = extend_hash(h, token);
    tokens.push_back(next_token(h));
  }
  return tokens;
}

class Simulation {
 public:
  explicit Simulation(const SchedulerOptions& options)
      : scheduler(options),
        options_(options),
        global_(size_t(options.num_global_blocks) * size_t(options.block_size)),
        local_(size_t(options.num_local_blocks) * size_t(options.block_size)) {}

  struct Job {
    Sequence sequence;
    Tokens prompt;
    int output = 0;
    bool aborted = false;
  };

  Job& submit(const Tokens& prompt, int output, bool use_cache = true, const Job* leader = nullptr,
              uint64_t client = 0) {
    auto job = std::make_unique<Job>();
    job->prompt = prompt;
    job->output = output;
    job->sequence.arrival = jobs.size();
    job->sequence.client = client;
    several_clients |= client != 0;
    job->sequence.of_request = leader ? leader->sequence.arrival : job->sequence.arrival;
    job->sequence.tokens = prompt;
    job->sequence.num_prompt = int64_t(prompt.size());
    job->sequence.use_prefix_cache = use_cache;
    if (leader && leader->sequence.status != SequenceStatus::kFinished)
      job->sequence.leader = &leader->sequence;
    scheduler.add(job->sequence);
    jobs.push_back(std::move(job));
    return *jobs.back();
  }

  void abort(Job& job) {
    if (job.sequence.status == SequenceStatus::kFinished) return;
    scheduler.release(job.sequence);
    job.aborted = true;
  }

  void step() {
    const bool was_ahead = !ahead_.empty();
    if (!was_ahead && guesser) guess(scheduler.schedule());
    const std::vector<Chunk> chunks = was_ahead ? take_ahead() : guesser ? guessed_ : scheduler.schedule();
    int total = 0;
    std::set<const Sequence*> seen;
    for (const Chunk& chunk : chunks) {
      total += chunk.count;
      CHECK(seen.insert(chunk.sequence).second);
      check_slice(chunk);
    }
    CHECK(total <= options_.max_batched_tokens);
    CHECK(int(chunks.size()) <= options_.max_num_seqs);
    // The oldest that has blocks or could have them is always served; among clients it is not always its turn.
    const Sequence* oldest = nullptr;
    for (const auto& job : jobs)
      if (job->sequence.status == SequenceStatus::kRunning) {
        oldest = &job->sequence;
        break;
      }
    if (oldest && (!several_clients || oldest->num_remaining() == 1)) CHECK(seen.count(oldest) == 1);
    if (scheduler.has_work() && !was_ahead) CHECK(!chunks.empty());

    for (const Chunk& chunk : chunks) write(chunk);
    for (const Chunk& chunk : chunks) read(chunk);
    for (const Chunk& chunk : chunks) chunk.guesses.empty() ? commit(chunk) : verify(chunk);
    if (steps_ahead) schedule_ahead(chunks);
    for (const Chunk& chunk : chunks) {
      Sequence& s = *chunk.sequence;
      if (s.num_computed != s.length() || !chunk.guesses.empty()) continue;
      uint64_t h = 1;
      for (int32_t token : s.tokens) h = extend_hash(h, token);
      s.tokens.push_back(next_token(h));
      trace.push_back(int64_t(s.arrival));
      const Job& job = *jobs[s.arrival];
      if (s.num_output() == job.output) scheduler.release(s);
    }
    for (const Chunk& chunk : chunks) trace.push_back(chunk.begin * 1000 + chunk.count);
  }

  void finish() {
    for (int steps = 0; scheduler.has_work(); ++steps) {
      CHECK(steps < 100000);
      step();
    }
    for (const auto& job : jobs)
      if (!job->aborted) CHECK(job->sequence.tokens == alone(job->prompt, job->output));
    CHECK_EQ(scheduler.global_blocks().num_used(), 0);
    CHECK_EQ(scheduler.local_blocks().num_used(), 0);
  }

  Scheduler scheduler;
  std::vector<std::unique_ptr<Job>> jobs;
  std::vector<int64_t> trace;
  std::mt19937* rejections = nullptr;  // where set, only some tokens of a chunk are accepted
  int64_t num_rejected = 0;
  std::mt19937* guesser = nullptr;  // where set, decoding sequences get guesses, some of them right
  int64_t num_guessed_right = 0, num_guessed_wrong = 0;
  bool several_clients = false;
  bool steps_ahead = false;  // are scheduled where they can be
  int64_t num_ahead = 0;     // that were

 private:
  void guess(const std::vector<Chunk>& chunks) {
    for (size_t i = 0; i < chunks.size(); ++i) {
      const Sequence& s = *chunks[i].sequence;
      const int room = jobs[s.arrival]->output - int(s.num_output()) - 1;
      if (chunks[i].count != 1 || !chunks[i].samples() || room <= 0) continue;
      Tokens all = s.tokens;
      for (int n = 0; n < 1 + int((*guesser)() % uint32_t(std::min(room, 9))); ++n) {
        const bool right = (*guesser)() % 4 != 0;
        const int32_t token = alone(all, 1).back();
        all.push_back(right ? token : (token + 1) % 3);
      }
      const int taken = scheduler.extend(i, std::span(all).subspan(s.tokens.size()));
      CHECK_EQ(size_t(taken), chunks[i].guesses.size());
      CHECK_EQ(chunks[i].known_end(), s.length());
    }
    guessed_ = chunks;
  }
  // Each position is final before the next token is known; the first wrong guess ends it.
  void verify(const Chunk& chunk) {
    Sequence& s = *chunk.sequence;
    for (int64_t p = chunk.begin; p < chunk.end(); ++p) {
      const int32_t token = alone(s.tokens, 1).back();
      const auto row = size_t(p + 1 - chunk.known_end());
      const bool right = row < chunk.guesses.size() && chunk.guesses[row] == token;
      scheduler.commit({&s, p, right ? 1 : int(chunk.end() - p)}, 1);
      CHECK_EQ(s.num_computed, p + 1);
      if (!right && options_.num_global_blocks > 0)
        CHECK_EQ(int64_t(s.global_blocks.size()), ceil_div(p + 1, int64_t(options_.block_size)));
      s.tokens.push_back(token);
      if (s.num_output() == jobs[s.arrival]->output) scheduler.release(s);
      num_guessed_right += right;
      num_guessed_wrong += row < chunk.guesses.size() && !right;
      if (!right || s.status == SequenceStatus::kFinished) return;
    }
  }
  static int32_t token_at(const Chunk& chunk, int64_t p) {
    return p < chunk.known_end() ? chunk.sequence->tokens[size_t(p)]
                                 : chunk.guesses[size_t(p - chunk.known_end())];
  }
  int64_t attention_chunk_begin(int64_t p) const {
    return options_.attention_chunk ? p - p % options_.attention_chunk : 0;
  }
  // Blocks must hold exactly what was accepted; the rest is computed again.
  void commit(const Chunk& chunk) {
    int accepted = chunk.count;
    if (rejections) accepted = 1 + int((*rejections)() % uint32_t(chunk.count));
    scheduler.commit(chunk, accepted);
    if (accepted == chunk.count) return;
    num_rejected += chunk.count - accepted;
    const Sequence& s = *chunk.sequence;
    CHECK_EQ(s.num_computed, chunk.begin + accepted);
    CHECK(s.num_registered * options_.block_size <= s.num_computed);
    const auto blocks = [&](int64_t tokens) {
      return size_t(ceil_div(tokens, int64_t(options_.block_size)));
    };
    if (options_.num_global_blocks > 0) CHECK_EQ(s.global_blocks.size(), blocks(s.num_computed));
    if (options_.num_local_blocks > 0)
      CHECK_EQ(s.local_blocks.size(), blocks(s.num_computed - attention_chunk_begin(s.num_computed)));
  }
  size_t global_slot(const Sequence& s, int64_t p) const {
    const auto size = int64_t(options_.block_size);
    return size_t(s.global_blocks.at(size_t(p / size)) * size + p % size);
  }
  size_t local_slot(const Sequence& s, int64_t p) const {
    const auto size = int64_t(options_.block_size);
    const int64_t inside = p - attention_chunk_begin(p);
    return size_t(s.local_blocks.at(size_t(inside / size)) * size + inside % size);
  }

  // While the tokens of `chunks` are still being chosen.
  void schedule_ahead(const std::vector<Chunk>& chunks) {
    for (const Chunk& chunk : scheduler.schedule_ahead(chunks)) {
      const Sequence& s = *chunk.sequence;
      CHECK(chunk.begin == s.length() && chunk.count == 1);
      ahead_.push_back({chunk, global_.empty() ? 0 : global_slot(s, chunk.begin),
                        local_.empty() ? 0 : local_slot(s, chunk.begin)});
    }
    num_ahead += !ahead_.empty();
  }
  // The step that was scheduled ahead. Rows of sequences that have ended since are computed all the same.
  std::vector<Chunk> take_ahead() {
    std::vector<Chunk> chunks;
    for (const Ahead& a : std::exchange(ahead_, {})) {
      if (a.chunk.sequence->status == SequenceStatus::kRunning) {
        chunks.push_back(a.chunk);
        continue;
      }
      if (!global_.empty()) global_[a.global_slot] = 0;
      if (!local_.empty()) local_[a.local_slot] = 0;
    }
    return chunks;
  }

  void check_slice(const Chunk& chunk) {
    const Sequence& s = *chunk.sequence;
    CHECK(chunk.count > 0 && chunk.begin == s.num_computed && chunk.known_end() <= s.length());
    if (options_.attention_chunk > 0)
      CHECK_EQ(chunk.begin / options_.attention_chunk, (chunk.end() - 1) / options_.attention_chunk);
    for (int64_t p = chunk.begin; p < chunk.end(); ++p) {  // nobody else may see what is written now
      const auto size = int64_t(options_.block_size);
      if (!global_.empty())
        CHECK_EQ(scheduler.global_blocks().references(int32_t(int64_t(global_slot(s, p)) / size)), 1);
      if (!local_.empty())
        CHECK_EQ(scheduler.local_blocks().references(int32_t(int64_t(local_slot(s, p)) / size)), 1);
    }
  }

  void write(const Chunk& chunk) {
    const Sequence& s = *chunk.sequence;
    uint64_t h = 1;
    for (int64_t p = 0; p < chunk.end(); ++p) {
      h = extend_hash(h, token_at(chunk, p));
      if (p < chunk.begin) continue;
      if (!global_.empty()) global_[global_slot(s, p)] = h;
      if (!local_.empty()) local_[local_slot(s, p)] = h;
    }
  }

  void read(const Chunk& chunk) {
    const Sequence& s = *chunk.sequence;
    uint64_t h = 1;
    for (int64_t p = 0; p < chunk.end(); ++p) {
      h = extend_hash(h, token_at(chunk, p));
      if (!global_.empty()) CHECK_EQ(global_[global_slot(s, p)], h);
      if (!local_.empty() && p >= attention_chunk_begin(chunk.begin)) CHECK_EQ(local_[local_slot(s, p)], h);
    }
  }

  const SchedulerOptions options_;
  std::vector<uint64_t> global_;  // [blocks * P] hash of the whole prefix whose last token lies there
  std::vector<uint64_t> local_;
  struct Ahead {
    Chunk chunk;
    size_t global_slot, local_slot;
  };
  std::vector<Ahead> ahead_;
  std::vector<Chunk> guessed_;
};

Tokens random_tokens(std::mt19937& random, size_t count) {
  Tokens tokens(count);
  for (int32_t& token : tokens) token = random() % 8 == 0 ? 1 : 0;  // long common prefixes
  return tokens;
}

struct Outcome {
  std::vector<int64_t> trace;
  SchedulerStats stats;
  int64_t num_ahead = 0, num_rejected = 0, num_guessed_right = 0, num_guessed_wrong = 0;
};

Outcome random_run(uint32_t seed, int hash_bits, bool steps_ahead = false, bool rejects = false,
                   uint32_t clients = 1, bool guesses = false) {
  std::mt19937 random(seed);
  SchedulerOptions options;
  options.block_size = 4;
  const uint32_t groups = seed % 3;  // both, global only, local only
  options.attention_chunk = groups == 1 ? 0 : 8 << random() % 2;
  const int64_t longest = 60;
  // From "one sequence just fits" to comfortable.
  options.num_global_blocks = groups == 2 ? 0 : int32_t(longest / 4 + random() % 40);
  options.num_local_blocks = groups == 1 ? 0 : int32_t(options.attention_chunk / 4 + random() % 12);
  options.max_num_seqs = 1 + int(random() % 6);
  options.max_batched_tokens = options.max_num_seqs + int(random() % 20);
  options.prefix_cache = random() % 4 != 0;
  options.prefix_hash_bits = hash_bits;
  Simulation sim(options);
  sim.steps_ahead = steps_ahead;
  std::mt19937 rejections(seed);
  if (rejects) sim.rejections = &rejections;
  if (guesses) sim.guesser = &rejections;
  for (int i = 0; i < 60; ++i) {
    const Tokens prompt = random_tokens(random, 1 + random() % 40);
    const int output = 1 + int(random() % 20);
    const uint64_t client = clients == 1 ? 0 : random() % clients;
    auto& first = sim.submit(prompt, output, random() % 8 != 0, nullptr, client);
    if (random() % 4 == 0)
      for (int sibling = 0; sibling < 3; ++sibling) sim.submit(prompt, output, true, &first, client);
    if (clients > 1)  // some are held for a while
      for (auto& job : sim.jobs)
        if (random() % 30 == 0) sim.scheduler.hold(job->sequence, !job->sequence.held);
    for (uint32_t steps = random() % 6; steps > 0 && sim.scheduler.has_work(); --steps) sim.step();
    if (random() % 5 == 0) sim.abort(*sim.jobs[random() % sim.jobs.size()]);
  }
  for (auto& job : sim.jobs) sim.scheduler.hold(job->sequence, false);
  sim.finish();
  return {sim.trace,        sim.scheduler.stats(), sim.num_ahead,
          sim.num_rejected, sim.num_guessed_right, sim.num_guessed_wrong};
}

TEST(keeps_every_sequence_exact_under_random_load) {
  int64_t preemptions = 0, hits = 0;
  for (uint32_t seed = 0; seed < 120; ++seed) {
    const Outcome outcome = random_run(seed, 64);
    preemptions += outcome.stats.preemptions;
    hits += outcome.stats.prefix_hit_tokens;
  }
  CHECK(preemptions > 500);  // the load is tight enough to mean something
  CHECK(hits > 5000);
}

// The same when the next step is scheduled before tokens are known, as the step loop does on a GPU.
TEST(steps_scheduled_ahead_keep_every_sequence_exact) {
  int64_t preemptions = 0, ahead = 0;
  for (uint32_t seed = 300; seed < 420; ++seed) {
    const Outcome outcome = random_run(seed, 64, /*steps_ahead=*/true);
    preemptions += outcome.stats.preemptions;
    ahead += outcome.num_ahead;
  }
  CHECK(preemptions > 200);
  CHECK(ahead > 10000);
}

// The same when tokens of a step turn out not to be final, as guessed ones will.
TEST(rejected_tokens_leave_nothing_behind) {
  int64_t preemptions = 0, rejected = 0, hits = 0;
  for (uint32_t seed = 500; seed < 620; ++seed) {
    const Outcome outcome = random_run(seed, 64, /*steps_ahead=*/false, /*rejects=*/true);
    preemptions += outcome.stats.preemptions;
    rejected += outcome.num_rejected;
    hits += outcome.stats.prefix_hit_tokens;
  }
  CHECK(preemptions > 200);
  CHECK(rejected > 5000);
  CHECK(hits > 2000);
}

// The same when chunks are lengthened by guesses, right and wrong ones.
TEST(guesses_leave_what_steps_without_them_leave) {
  int64_t preemptions = 0, right = 0, wrong = 0, hits = 0;
  for (uint32_t seed = 900; seed < 1020; ++seed) {
    const Outcome outcome =
        random_run(seed, 64, /*steps_ahead=*/false, /*rejects=*/false, 1, /*guesses=*/true);
    preemptions += outcome.stats.preemptions;
    right += outcome.num_guessed_right;
    wrong += outcome.num_guessed_wrong;
    hits += outcome.stats.prefix_hit_tokens;
  }
  CHECK(preemptions > 200);
  CHECK(right > 5000);
  CHECK(wrong > 2000);
  CHECK(hits > 2000);
}

TEST(guesses_take_what_room_there_is_and_preempt_nobody) {
  SchedulerOptions options;
  options.block_size = 4;
  options.attention_chunk = 8;
  options.num_global_blocks = 4;
  options.num_local_blocks = 4;
  options.max_num_seqs = 2;
  options.max_batched_tokens = 6;
  Scheduler scheduler(options);
  Sequence a, b;
  a.arrival = 1;
  b.arrival = 2;
  for (Sequence* const s : {&a, &b}) {
    s->tokens = {7, int32_t(s->arrival), 9};  // nothing for the prefix cache to share
    s->num_prompt = 3;
    scheduler.add(*s);
  }
  const std::vector<Chunk> prompts = scheduler.schedule();
  CHECK_EQ(prompts.size(), size_t(2));
  for (const Chunk& chunk : prompts) {
    scheduler.commit(chunk, chunk.count);
    chunk.sequence->tokens.push_back(5);
  }
  const std::vector<int32_t> guesses(9, 1);
  const std::vector<Chunk>& chunks = scheduler.schedule();
  CHECK_EQ(chunks.size(), size_t(2));
  CHECK_EQ(scheduler.extend(0, guesses),
           4);  // 6 tokens, of which each sequence has one; up to the chunk of 8
  CHECK_EQ(scheduler.extend(1, guesses), 0);
  CHECK_EQ(chunks[0].end(), 8);
  CHECK_EQ(chunks[0].known_end(), 4);
  CHECK_EQ(a.global_blocks.size(), size_t(2));
  CHECK_EQ(scheduler.global_blocks().num_available(), 1);
  scheduler.commit(chunks[0], 1);  // all of them were wrong
  scheduler.commit(chunks[1], 1);
  CHECK_EQ(a.global_blocks.size(), size_t(1));
  CHECK_EQ(scheduler.global_blocks().num_available(), 2);
  CHECK_EQ(scheduler.stats().preemptions, 0);
  scheduler.release(a);
  scheduler.release(b);
  CHECK_EQ(scheduler.global_blocks().num_used(), 0);
}

// The same when several clients take turns, and some sequences are held for a while.
TEST(turns_and_holds_keep_every_sequence_exact) {
  int64_t preemptions = 0, hits = 0;
  for (uint32_t seed = 700; seed < 820; ++seed) {
    const Outcome outcome =
        random_run(seed, 64, /*steps_ahead=*/seed % 2 == 0, /*rejects=*/false, 1 + seed % 5);
    preemptions += outcome.stats.preemptions;
    hits += outcome.stats.prefix_hit_tokens;
  }
  CHECK(preemptions > 500);
  CHECK(hits > 5000);
}

TEST(does_not_depend_on_the_quality_of_the_prefix_hash) {
  for (uint32_t seed = 200; seed < 215; ++seed)
    CHECK(random_run(seed, 64).trace == random_run(seed, 4).trace);
}

SchedulerOptions two_groups() {
  SchedulerOptions options;
  options.block_size = 16;
  options.attention_chunk = 64;
  options.num_global_blocks = 32;
  options.num_local_blocks = 16;
  options.max_num_seqs = 4;
  options.max_batched_tokens = 48;
  return options;
}

TEST(splits_prompts_at_chunk_boundaries_and_frees_finished_chunks) {
  Simulation sim(two_groups());
  auto& job = sim.submit(Tokens(100, 7), 2, /*use_cache=*/false);
  std::vector<int64_t> ends;
  while (sim.scheduler.has_work() && job.sequence.num_output() == 0) {
    sim.step();
    ends.push_back(job.sequence.num_computed);
    CHECK(sim.scheduler.local_blocks().num_used() <= 4);
    if (job.sequence.num_computed == 64) CHECK_EQ(sim.scheduler.local_blocks().num_used(), 0);
  }
  CHECK((ends == std::vector<int64_t>{48, 64, 100}));
  sim.finish();
}

TEST(serves_decode_before_prompts) {
  Simulation sim(two_groups());
  auto& a = sim.submit(Tokens(10, 1), 8);
  sim.step();
  auto& b = sim.submit(Tokens(200, 2), 1);
  sim.step();
  CHECK_EQ(a.sequence.num_output(), 2);
  CHECK_EQ(b.sequence.num_computed, 47);  // what the budget of 48 leaves beside a's one token
  sim.finish();
}

TEST(preempts_the_youngest_and_resumes_it_exactly) {
  SchedulerOptions options = two_groups();
  options.num_global_blocks = 8;  // 128 tokens
  options.prefix_cache = false;
  Simulation sim(options);
  auto& old_job = sim.submit(Tokens(40, 1), 60);
  auto& young_job = sim.submit(Tokens(41, 2), 60);
  bool was_preempted = false;
  while (sim.scheduler.has_work()) {
    sim.step();
    CHECK(old_job.sequence.status != SequenceStatus::kWaiting);
    was_preempted |= young_job.sequence.status == SequenceStatus::kWaiting;
  }
  CHECK(was_preempted);
  CHECK(sim.scheduler.stats().preemptions >= 1);
  sim.finish();
}

TEST(siblings_wait_for_the_shared_prompt_and_reuse_it) {
  Simulation sim(two_groups());
  auto& first = sim.submit(Tokens(50, 3), 4);
  auto& second = sim.submit(Tokens(50, 3), 4, true, &first);
  sim.step();
  CHECK(second.sequence.status == SequenceStatus::kWaiting);
  sim.step();
  sim.step();
  CHECK_EQ(second.sequence.cached_tokens, 48);
  sim.finish();
}

TEST(wakes_siblings_when_the_first_is_aborted) {
  Simulation sim(two_groups());
  auto& first = sim.submit(Tokens(50, 3), 4);
  auto& second = sim.submit(Tokens(50, 3), 4, true, &first);
  sim.abort(first);
  sim.step();
  CHECK(second.sequence.status == SequenceStatus::kRunning);
  sim.finish();
}

TEST(release_frees_at_once_and_twice_is_harmless) {
  Simulation sim(two_groups());
  auto& job = sim.submit(Tokens(30, 1), 10);
  sim.step();
  CHECK(sim.scheduler.global_blocks().num_used() > 0);
  sim.abort(job);
  sim.scheduler.release(job.sequence);
  CHECK_EQ(sim.scheduler.global_blocks().num_used(), 0);
  CHECK(!sim.scheduler.has_work());
}

constexpr uint64_t kGreedy = 1, kOther = 2, kThird = 3;

TEST(a_client_with_every_place_makes_room_for_another) {
  Simulation sim(two_groups());
  std::vector<const Simulation::Job*> greedy;
  for (int i = 0; i < 8; ++i) greedy.push_back(&sim.submit(Tokens(5, i + 1), 30, true, nullptr, kGreedy));
  const auto running = [&] {
    return std::count_if(greedy.begin(), greedy.end(), [](const Simulation::Job* job) {
      return job->sequence.status == SequenceStatus::kRunning;
    });
  };
  sim.step();
  CHECK_EQ(running(), 4);  // alone it has all places
  auto& other = sim.submit(Tokens(5, 50), 3, true, nullptr, kOther);
  sim.step();
  CHECK_EQ(other.sequence.num_output(), 1);  // in the very next step
  CHECK_EQ(running(), 3);
  CHECK(greedy[0]->sequence.status == SequenceStatus::kRunning);  // the youngest went
  CHECK(greedy[3]->sequence.status == SequenceStatus::kWaiting);
  const int64_t preemptions = sim.scheduler.stats().preemptions;
  sim.step();
  sim.step();
  CHECK(other.sequence.status == SequenceStatus::kFinished);
  CHECK_EQ(sim.scheduler.stats().preemptions, preemptions);  // nobody is moved without need
  sim.step();
  CHECK_EQ(running(), 4);
  sim.finish();
}

TEST(places_are_shared_evenly_and_then_stay) {
  Simulation sim(two_groups());
  for (int i = 0; i < 4; ++i) sim.submit(Tokens(5, i + 1), 40, true, nullptr, kGreedy);
  sim.step();
  std::vector<const Simulation::Job*> others;
  for (int i = 0; i < 4; ++i) others.push_back(&sim.submit(Tokens(5, i + 60), 40, true, nullptr, kOther));
  sim.step();
  sim.step();
  const auto running = std::count_if(others.begin(), others.end(), [](const Simulation::Job* job) {
    return job->sequence.status == SequenceStatus::kRunning;
  });
  CHECK_EQ(running, 2);
  CHECK_EQ(sim.scheduler.stats().preemptions, 2);
  for (int i = 0; i < 20; ++i) sim.step();
  CHECK_EQ(sim.scheduler.stats().preemptions, 2);
  sim.finish();
}

TEST(a_request_with_many_outputs_makes_room_for_its_client_s_next) {
  Simulation sim(two_groups());
  auto& first = sim.submit(Tokens(5, 1), 40);
  std::vector<const Simulation::Job*> all = {&first};
  for (int i = 0; i < 5; ++i) all.push_back(&sim.submit(Tokens(5, 1), 40, true, &first));
  for (int i = 0; i < 3; ++i) sim.step();
  const auto running = [&] {
    return std::count_if(all.begin(), all.end(), [](const Simulation::Job* job) {
      return job->sequence.status == SequenceStatus::kRunning;
    });
  };
  CHECK_EQ(running(), 4);
  auto& next = sim.submit(Tokens(5, 9), 2);
  sim.step();
  sim.step();
  CHECK(next.sequence.status == SequenceStatus::kFinished);
  CHECK_EQ(running(), 3);
  sim.step();
  CHECK_EQ(running(), 4);
  sim.finish();
}

TEST(prompts_of_several_clients_are_computed_in_turns) {
  SchedulerOptions options = two_groups();
  options.num_global_blocks = 64;
  Simulation sim(options);
  auto& first = sim.submit(Tokens(400, 1), 1, true, nullptr, kGreedy);
  auto& second = sim.submit(Tokens(400, 2), 1, true, nullptr, kGreedy);
  sim.step();
  sim.step();
  auto& other = sim.submit(Tokens(40, 3), 1, true, nullptr, kOther);
  auto& third = sim.submit(Tokens(40, 4), 1, true, nullptr, kThird);
  for (int i = 0; i < 5; ++i) sim.step();
  CHECK(other.sequence.status == SequenceStatus::kFinished);
  CHECK(third.sequence.status == SequenceStatus::kFinished);
  CHECK(first.sequence.num_output() == 0 && second.sequence.num_output() == 0);
  sim.finish();
}

TEST(two_clients_long_prompts_advance_together) {
  SchedulerOptions options = two_groups();
  options.num_global_blocks = 64;
  Simulation sim(options);
  auto& one = sim.submit(Tokens(400, 1), 1, true, nullptr, kGreedy);
  auto& other = sim.submit(Tokens(400, 2), 1, true, nullptr, kOther);
  for (int i = 0; i < 8; ++i) sim.step();
  CHECK(one.sequence.num_computed >= 96);
  CHECK(other.sequence.num_computed >= 96);
  sim.finish();
}

TEST(short_blocks_are_taken_from_the_client_with_the_most) {
  SchedulerOptions options = two_groups();
  options.num_global_blocks = 9;  // 144 tokens
  options.prefix_cache = false;
  Simulation sim(options);
  for (int i = 0; i < 3; ++i) sim.submit(Tokens(30, i), 60, false, nullptr, kGreedy);
  for (int i = 0; i < 4; ++i) sim.step();
  auto& other = sim.submit(Tokens(20, 9), 30, false, nullptr, kOther);
  for (int i = 0; i < 34; ++i) {
    sim.step();
    if (i > 3) CHECK(other.sequence.status != SequenceStatus::kWaiting);
  }
  CHECK(other.sequence.status == SequenceStatus::kFinished);
  CHECK(sim.scheduler.stats().preemptions > 0);
  sim.finish();
}

TEST(a_held_sequence_gives_way_and_comes_back) {
  SchedulerOptions options = two_groups();
  options.max_num_seqs = 1;
  Simulation sim(options);
  auto& held = sim.submit(Tokens(20, 1), 10);
  auto& next = sim.submit(Tokens(20, 2), 4);
  sim.step();
  sim.step();
  const int64_t outputs = held.sequence.num_output();
  CHECK(outputs > 0);
  sim.scheduler.hold(held.sequence, true);
  for (int i = 0; i < 4; ++i) sim.step();
  CHECK(next.sequence.status == SequenceStatus::kFinished);
  CHECK_EQ(held.sequence.num_output(), outputs);
  CHECK(!sim.scheduler.has_work());  // nothing turns without need
  CHECK_EQ(sim.scheduler.stats().waiting, 1);
  CHECK_EQ(sim.scheduler.global_blocks().num_used(), 0);
  sim.scheduler.hold(held.sequence, false);
  sim.finish();
  CHECK_EQ(held.sequence.num_output(), 10);
}

// Otherwise whoever waits would wait for as long as steps run ahead.
TEST(no_step_goes_ahead_while_another_sequence_could_be_let_in) {
  Simulation sim(two_groups());
  auto& running = sim.submit(Tokens(10, 1), 20);
  sim.step();
  const std::vector<Chunk> now = sim.scheduler.schedule();
  CHECK_EQ(now.size(), size_t(1));
  sim.scheduler.commit(now[0], 1);
  auto& waiting = sim.submit(Tokens(10, 2), 1);
  CHECK(sim.scheduler.schedule_ahead(now).empty());
  sim.scheduler.release(waiting.sequence);
  CHECK_EQ(sim.scheduler.schedule_ahead(now).size(), size_t(1));
  sim.scheduler.release(running.sequence);
}

TEST(refuses_budgets_that_could_starve_a_sequence) {
  SchedulerOptions options = two_groups();
  options.max_batched_tokens = 3;
  CHECK_THROWS(kConfig, Scheduler(options));
  options = two_groups();
  options.attention_chunk = 40;
  CHECK_THROWS(kConfig, Scheduler(options));
}

}  // namespace
}  // namespace llama4rt
