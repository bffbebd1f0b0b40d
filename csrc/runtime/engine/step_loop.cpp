#include "runtime/engine/step_loop.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <new>
#include <utility>

#include "base/checked_math.h"
#include "base/device_lost.h"
#include "base/error.h"
#include "runtime/engine/step_work.h"

namespace llama4rt {
namespace {

// How long a step with nothing to compute waits for a store's disk: a new request is not seen meanwhile.
constexpr std::chrono::milliseconds kStorePatience(5);

SchedulerOptions scheduler_options(const MemoryPlan& memory, const StepLoopOptions& options) {
  const KvCachePlan& plan = memory.kv;
  SchedulerOptions out;
  out.block_size = plan.block_size;
  out.attention_chunk = plan.attention_chunk;
  out.num_global_blocks = plan.num_global_blocks;
  out.num_local_blocks = plan.num_local_blocks;
  out.max_num_seqs = int(memory.max_num_seqs);
  out.max_batched_tokens = int(memory.max_batched_tokens);
  out.prefix_cache = options.prefix_cache;
  return out;
}

RunnerMemory runner_memory(const MemoryPlan& plan, const StepLoopOptions& options) {
  return {.kv = plan.kv,
          .step = plan.step,
          .workspace = plan.workspace + plan.logits,
          .vision_workspace = plan.vision,
          .images = plan.images,
          .zero_cache = options.zero_cache};
}

// Guesses of a grammar come with the masks behind them, in the time of a few masks; a step is not kept longer.
constexpr std::chrono::milliseconds kOfferPatience{3};

// For calls of the runner. It begins each step anew, so lack of memory there ends a step, not the engine.
template <class Call>
auto failing_alone(const Call& call) {
  try {
    return call();
  } catch (const std::bad_alloc& e) {
    throw Error(ErrorKind::kInternal, error_text("there is no memory for a step: ", e.what()));
  }
}

}  // namespace

StepLoop::StepLoop(const WeightSource& source, Device& device, const MemoryPlan& plan,
                   StepLoopOptions options)
    : max_model_len_(plan.kv.max_model_len),
      runner_(source, device, runner_memory(plan, options)),
      scheduler_(scheduler_options(plan, options)),
      reporter_(scheduler_, runner_.config(), max_model_len_, runner_.num_threads()) {
  if (options.drafter)
    speculator_.emplace(std::move(options.drafter), step_work(source, plan.kv), options.always_guess);
  if (ImageEncoder* const encoder = runner_.images())
    image_queue_.emplace(*encoder, runner_.config().vision->patch_token_id);
  if (options.store) traffic_.emplace(*options.store, scheduler_, runner_.kv_cache(), plan.kv);
  constant_stats_.weight_bytes = plan.weights;
  constant_stats_.kv_cache_bytes = plan.kv.bytes();
  constant_stats_.workspace_bytes = runner_.workspace_bytes();
  constant_stats_.block_size = plan.kv.block_size;
  constant_stats_.global_block_bytes = plan.kv.global_block_bytes;
  constant_stats_.local_block_bytes = plan.kv.local_block_bytes;
}

StepLoop::~StepLoop() {
  try {
    if (in_flight_) runner_.discard(*in_flight_);
    if (traffic_) traffic_->send_all();
  } catch (const std::exception&) {  // there is no caller left to tell
  }
}

void StepLoop::add(uint64_t id, Request request, uint64_t seed) {
  RequestState& state = requests_[id];
  state.id = id;
  state.request = std::move(request);
  state.seed = seed;
  const Request& r = state.request;
  const ModelConfig& config = runner_.config();
  state.end_tokens.assign(r.stop_token_ids.begin(), r.stop_token_ids.end());
  if (!r.ignore_eos)
    state.end_tokens.insert(state.end_tokens.end(), config.eos_token_ids.begin(), config.eos_token_ids.end());
  if (!r.sampling.allowed_token_ids.empty())
    state.allowed.resize(size_t(ceil_div(config.vocab_size, int64_t(32))));
  for (const int64_t token : r.sampling.allowed_token_ids)
    state.allowed[size_t(token / 32)] |= 1u << (token % 32);
  const auto prompt = int64_t(r.prompt_token_ids.size());
  state.request.max_tokens += r.continued_tokens;  // below it counts all output
  for (int i = 0; i < int(r.n); ++i) {
    auto s = std::make_unique<SequenceState>();
    s->arrival = next_arrival_++;
    s->client = uint64_t(r.client);
    s->of_request = id;
    s->tokens.assign(r.prompt_token_ids.begin(), r.prompt_token_ids.end());
    s->num_prompt = prompt - r.continued_tokens;
    s->assume_computed = r.assume_computed;
    s->adapter = r.adapter;
    s->cache_root = cache_root(r.adapter.get());
    s->use_prefix_cache = r.use_prefix_cache && r.assume_computed == 0;
    s->request = &state;
    s->index = i;
    if (r.return_logits) s->rows_wanted = prompt;
    if (!r.return_logits && (r.prompt_logprobs >= 0 || r.score_from > 0) && i == 0)
      s->rows_wanted = prompt - 1;
    if (r.score_from > 0) s->rows_done = r.score_from - 1;  // the row before a token decides it
    if (s->rows_wanted > 0) s->max_cached_tokens = s->rows_done;
    if (i > 0) s->leader = state.sequences[0].get();
    state.sequences.push_back(std::move(s));
    ++state.live;
  }
  if (r.images.empty())
    enter_schedule(state);
  else
    image_queue_->add(state);
}

// Equal adapters share what they have computed, whatever they are called.
PrefixCache::NodeId StepLoop::cache_root(const Adapter* adapter) {
  if (!adapter) return PrefixCache::kRoot;
  return cache_roots_.try_emplace(adapter->digest(), PrefixCache::kFirstOwnRoot + cache_roots_.size())
      .first->second;
}

// Hands the request's sequences to the scheduler, once what a store has of their prompt is there.
void StepLoop::enter_schedule(RequestState& state) {
  state.scheduled = true;
  if (!traffic_ || !traffic_->begin(state)) add_to_schedule(state);
}

// Between steps, or instead of one.
void StepLoop::move_stored_blocks() {
  if (!traffic_) return;
  traffic_->send();
  if (!in_flight_ && !scheduler_.has_work() && !reporter_.has_events() && traffic_->has_work())
    traffic_->wait(kStorePatience);
  for (RequestState* const state : traffic_->take_ready()) add_to_schedule(*state);
}

void StepLoop::add_to_schedule(RequestState& state) {
  for (auto& s : state.sequences) {
    if (s->status != SequenceStatus::kNew) continue;  // aborted while it waited
    if (s->leader && s->leader->status == SequenceStatus::kFinished) s->leader = nullptr;
    scheduler_.add(*s);
  }
}

void StepLoop::admit_ready_images() {
  if (!image_queue_) return;
  int64_t tiles = image_queue_->tiles_of_step(scheduler_.has_work());
  while (!image_queue_->empty()) {
    RequestState& front = *image_queue_->waiting().front();
    try {
      RequestState* const ready = image_queue_->next_ready(tiles);
      if (!ready) return;
      enter_schedule(*ready);
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const DeviceLost&) {
      throw;
    } catch (const std::exception& e) {
      image_queue_->remove(front);
      for (auto& s : front.sequences) reporter_.finish(*s, "error", e.what());
    }
  }
}

std::vector<float> StepLoop::encode_image(std::span<const uint8_t> tiles) {
  LLAMA4RT_CHECK(kRequest, runner_.images() != nullptr, "this engine file holds no vision tower");
  return runner_.images()->encode_tiles(tiles);
}

void StepLoop::end(uint64_t id, int index, const std::string& reason) {
  const auto it = requests_.find(id);
  if (it == requests_.end()) return;
  for (auto& s : it->second.sequences)
    if (index < 0 || s->index == index) reporter_.finish(*s, reason);
  drop_finished_requests();
}

void StepLoop::hold(uint64_t id, bool held) {
  const auto it = requests_.find(id);
  if (it == requests_.end()) return;
  for (auto& s : it->second.sequences) scheduler_.hold(*s, held);
}

std::vector<TokenEvent> StepLoop::step() {
  if (!in_flight_) counter_.begin();
  const int64_t generated_before = reporter_.generated_tokens();
  try {
    admit_ready_images();
    move_stored_blocks();
    if (!in_flight_) in_flight_ = submit_next();
    if (in_flight_) {
      std::optional<Step> next = submit_ahead(*in_flight_);
      collect(*in_flight_);
      if (speculator_)
        speculator_->learn(std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count());
      counter_.end(in_flight_->chunks, reporter_.generated_tokens() - generated_before);
      keep_in_flight(std::move(next));
    }
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const DeviceLost&) {
    throw;  // no request can go on
  } catch (const std::exception& e) {
    fail(e.what());
  }
  counter_.begin();  // of the step in flight
  drop_finished_requests();
  return reporter_.take_events();
}

std::optional<StepLoop::Step> StepLoop::submit_next() {
  const std::vector<Chunk>& chunks = scheduler_.schedule();
  if (chunks.empty()) return {};
  if (speculator_) guess(chunks);
  in_flight_.emplace().chunks = chunks;  // an error in between ends these sequences
  std::vector<OutputRow> outputs = reporter_.choose_outputs(chunks);
  Step step = failing_alone([&] { return runner_.submit(chunks, std::move(outputs)); });
  commit(step);
  return step;
}

// Lets the speculator lengthen chunks, the scheduler's latest, by what may follow their tokens.
void StepLoop::guess(const std::vector<Chunk>& chunks) {
  began_ = std::chrono::steady_clock::now();
  std::vector<Speculator::Wish> wishes;
  for (size_t i = 0; i < chunks.size(); ++i) {
    const Chunk& chunk = chunks[i];
    const SequenceState& s = sequence_of(chunk);
    const Request& request = s.request->request;
    if (chunk.count != 1 || !chunk.samples() || host_reads(s, chunk.begin)) continue;
    // Every guess that is right brings a token, and one comes in any case.
    const int64_t most = std::min(request.max_tokens - s.num_output(), max_model_len_ - s.length()) - 1;
    if (most <= 0) continue;
    Speculator::Wish wish{i, request.prediction, int(std::min<int64_t>(most, kMostGuesses))};
    if (TokenMask* const mask = mask_of(s)) {
      wish.offer = mask->wait_for_offer(kOfferPatience);
      if (!wish.offer) continue;
      wish.most = std::min(wish.most, int(wish.offer->rows));
    }
    wishes.push_back(wish);
  }
  speculator_->choose(scheduler_, chunks, wishes);
  for (size_t w = 0; w < wishes.size(); ++w)
    if (TokenMask* const mask = mask_of(sequence_of(chunks[wishes[w].chunk])))
      mask->wanted_rows = speculator_->guesses_worth_a_mask(w);
}

// --- steps ahead
//
// Before a step in flight is collected the next one is submitted, if it is certain which tokens that is: one
// more of each of the same sequences. The device finds their ids where sampling left them; blocks, positions
// and arrays do not depend on them. Should a sequence turn out to have ended, its row of that step is
// computed for nothing: what it writes goes to blocks that are given to others only by later steps, which the
// device runs later.

std::optional<StepLoop::Step> StepLoop::submit_ahead(const Step& now) {
  if (speculator_ || (image_queue_ && !image_queue_->empty()) || !runner_.can_follow(now)) return {};
  for (const Chunk& chunk : now.chunks) {
    const SequenceState& s = sequence_of(chunk);
    const SamplingParams& p = s.request->request.sampling;
    const bool needs_ids =
        p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0 ||
        std::any_of(p.bad_words.begin(), p.bad_words.end(), [](const auto& word) { return word.size() > 1; });
    const bool ends = s.num_output() + 1 == s.request->request.max_tokens || s.length() + 1 == max_model_len_;
    if (needs_ids || ends) return {};
  }
  std::vector<Chunk> chunks = scheduler_.schedule_ahead(now.chunks);
  if (chunks.empty()) return {};
  std::vector<OutputRow> outputs;
  for (size_t i = 0; i < chunks.size(); ++i)
    outputs.push_back(output_row(sequence_of(chunks[i]), i, chunks[i].begin));
  counter_.count_ahead();
  return failing_alone(
      [&] { return runner_.submit(std::move(chunks), std::move(outputs), /*follows=*/true); });
}

// The step submitted ahead stays in flight while one of its sequences is still running.
void StepLoop::keep_in_flight(std::optional<Step> next) {
  in_flight_ = std::move(next);
  if (!in_flight_) return;
  const auto runs = [](const Chunk& chunk) { return chunk.sequence->status == SequenceStatus::kRunning; };
  if (std::any_of(in_flight_->chunks.begin(), in_flight_->chunks.end(), runs)) return commit(*in_flight_);
  runner_.discard(*in_flight_);
  in_flight_.reset();
}

void StepLoop::collect(Step& step) {
  while (!step.is_done()) {
    StepRows rows = failing_alone([&] { return runner_.collect(step); });
    reporter_.use(step, rows);
  }
  for (const Chunk& chunk : step.chunks) reporter_.finish_chunk(chunk);
}

// The ids of the step's tokens are known and its keys and values are on their way: the sequences have
// advanced. Those with guesses do when their rows are known (Reporter::use).
void StepLoop::commit(const Step& step) {
  for (const Chunk& chunk : step.chunks) {
    if (chunk.sequence->status != SequenceStatus::kRunning || !chunk.guesses.empty()) continue;
    scheduler_.commit(chunk, chunk.count);
    reporter_.report_progress(chunk);
  }
}

// Ends the sequences of the step in flight; where there is none, something is wrong with the schedule itself,
// and no sequence that holds blocks can be trusted to go on.
void StepLoop::fail(const std::string& error) {
  if (in_flight_) {
    for (const Chunk& chunk : in_flight_->chunks) reporter_.finish(sequence_of(chunk), "error", error);
    in_flight_.reset();
    return;
  }
  for (auto& [id, state] : requests_)
    for (auto& s : state.sequences)
      if (s->status == SequenceStatus::kRunning) reporter_.finish(*s, "error", error);
}

void StepLoop::drop_finished_requests() {
  if (reporter_.take_ended()) requests_may_be_finished_ = true;
  if (!std::exchange(requests_may_be_finished_, false)) return;
  const auto flies = [this](const RequestState& state) {
    return in_flight_ &&
           std::any_of(in_flight_->chunks.begin(), in_flight_->chunks.end(),
                       [&](const Chunk& chunk) { return sequence_of(chunk).request == &state; });
  };
  for (auto it = requests_.begin(); it != requests_.end();) {
    if (it->second.live > 0) {
      ++it;
    } else if (flies(it->second)) {
      requests_may_be_finished_ = true;  // later
      ++it;
    } else {
      if (speculator_)
        for (const auto& s : it->second.sequences) speculator_->forget(*s);
      if (traffic_) traffic_->forget(it->second);
      if (image_queue_) {
        image_queue_->remove(it->second);
        image_queue_->release(it->second);
      }
      it = requests_.erase(it);
    }
  }
}

EngineStats StepLoop::stats() const {
  EngineStats stats = constant_stats_;
  counter_.add_to(stats);
  stats.scheduler = scheduler_.stats();
  if (speculator_) stats.speculation = speculator_->stats();
  if (image_queue_)
    for (const RequestState* const state : image_queue_->waiting()) stats.scheduler.waiting += state->live;
  if (traffic_) {
    stats.scheduler.waiting += traffic_->num_waiting();
    stats.outgoing_blocks = traffic_->num_outgoing();
  }
  if (runner_.images()) stats.images = runner_.images()->stats();
  stats.expert_tokens = runner_.expert_tokens();
  stats.expert_reads = runner_.expert_reads();
  stats.global = group_stats(scheduler_.global_blocks());
  stats.local = group_stats(scheduler_.local_blocks());
  return stats;
}

}  // namespace llama4rt
