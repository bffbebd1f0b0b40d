#include "runtime/generator.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace llama4rt {
namespace {

// Below so many logits, waking threads costs more than it saves.
constexpr int64_t kParallelLogits = int64_t(1) << 17;
// A mask takes milliseconds at worst: this is for a thread that died.
constexpr std::chrono::milliseconds kMaskPatience{30'000};

SchedulerOptions scheduler_options(const MemoryPlan& memory, const GeneratorOptions& options) {
  const KvCachePlan& plan = memory.kv;
  SchedulerOptions out;
  out.block_size = plan.block_size;
  out.chunk_size = plan.chunk_size;
  out.num_global_blocks = plan.num_global_blocks;
  out.num_local_blocks = plan.num_local_blocks;
  out.max_num_seqs = int(memory.max_num_seqs);
  out.max_batched_tokens = options.max_batched_tokens;
  out.prefix_cache = options.prefix_cache;
  return out;
}

GroupStats group_stats(const BlockAllocator& blocks) {
  return {blocks.num_blocks(), blocks.num_available(), blocks.num_used(), blocks.num_cached()};
}

}  // namespace

Generator::Generator(const WeightSource& source, Backend& backend, const MemoryPlan& plan,
                     const GeneratorOptions& options)
    : config_(source.config()),
      backend_(backend),
      plan_(plan.kv),
      weights_(Llama4Weights::load(source)),
      limits_(plan.step),
      kv_(backend, config_, plan.kv),
      model_(backend, config_, weights_, limits_),
      scheduler_(scheduler_options(plan, options)),
      builder_(backend, config_, plan.kv,
               {plan.step.max_tokens, plan.step.max_outputs, plan.max_num_seqs, plan.kv.max_model_len,
                plan.kv.block_size}),
      pool_(backend.num_threads()),
      samplers_(size_t(pool_.num_threads())) {
  if (config_.vision)
    encoder_ = std::make_unique<ImageEncoder>(source, backend, plan.images, plan.vision_tiles);
  if (backend.samples_on_device())
    device_sampler_ = std::make_unique<DeviceSampler>(backend, config_.vocab_size, limits_.logit_rows);
  if (options.zero_cache) kv_.zero();
  totals_.weight_bytes = plan.weights;
  totals_.kv_cache_bytes = plan.kv.bytes();
  totals_.workspace_bytes =
      int64_t(model_.workspace().capacity()) + (encoder_ ? encoder_->workspace_bytes() : 0);
  totals_.block_size = plan.kv.block_size;
  totals_.global_block_bytes = plan.kv.global_block_bytes;
  totals_.local_block_bytes = plan.kv.local_block_bytes;
}

Generator::~Generator() {
  if (!flight_) return;
  try {
    backend_.wait_for(flight_->sampling.mark);
  } catch (const Error&) {  // nobody is left to hear it
  }
}

void Generator::add(uint64_t id, const Request& request, uint64_t seed) {
  RequestState& state = requests_[id];
  state.id = id;
  state.request = request;
  state.seed = seed;
  state.end_tokens.assign(request.stop_token_ids.begin(), request.stop_token_ids.end());
  if (!request.ignore_eos)
    state.end_tokens.insert(state.end_tokens.end(), config_.eos_token_ids.begin(),
                            config_.eos_token_ids.end());
  const auto prompt = int64_t(request.prompt_token_ids.size());
  for (int i = 0; i < int(request.n); ++i) {
    auto g = std::make_unique<Generation>();
    g->arrival = next_arrival_++;
    g->tokens.assign(request.prompt_token_ids.begin(), request.prompt_token_ids.end());
    g->num_prompt = prompt;
    g->assume_computed = request.assume_computed;
    g->use_prefix_cache = request.use_prefix_cache && request.assume_computed == 0;
    g->request = &state;
    g->index = i;
    if (request.return_logits) g->rows_wanted = prompt;
    if (!request.return_logits && request.prompt_logprobs >= 0 && i == 0) g->rows_wanted = prompt - 1;
    if (g->rows_wanted > 0) g->max_cached_tokens = 0;
    if (i > 0) g->leader = state.sequences[0].get();
    state.sequences.push_back(std::move(g));
    ++state.live;
  }
  if (request.images.empty())
    enter_schedule(state);
  else
    encoding_.push_back(id);
}

// Requests with pictures wait here, first come, first served, until the last tile is encoded. While others
// are running, one tile a step keeps them moving.
void Generator::encode_images() {
  int64_t tiles = scheduler_.has_work() ? 1 : encoder_->max_tiles();
  for (; !encoding_.empty(); encoding_.pop_front()) {
    const auto it = requests_.find(encoding_.front());
    if (it == requests_.end()) continue;  // aborted
    RequestState& state = it->second;
    try {
      if (!encode_images_of(state, tiles)) return;
      enter_schedule(state);
    } catch (const std::exception& e) {
      for (auto& g : state.sequences) finish(*g, "error", e.what());
    }
  }
}

// False when tiles or memory have run out.
bool Generator::encode_images_of(RequestState& state, int64_t& tiles) {
  for (size_t i = 0; i < state.request.images.size(); ++i) {
    if (i == state.images.size()) {
      // Who waits for memory waits for the requests that are running; without any, it must go on.
      ImageEncoder::Entry* const entry =
          encoder_->acquire(state.request.images[i], scheduled_with_images_ == 0);
      if (!entry) return false;
      state.images.push_back(entry);
    }
    while (!state.images[i]->complete()) {
      if (tiles == 0) return false;
      tiles -= encoder_->encode(*state.images[i], tiles);
    }
  }
  return true;
}

// Hands the request's sequences to the scheduler, and says which positions its pictures take.
void Generator::enter_schedule(RequestState& state) {
  if (!state.images.empty()) {
    ImagePlaces places =
        place_images(state.sequences[0]->tokens, config_.vision->patch_token_id, state.images);
    const auto runs = std::make_shared<const std::vector<ImageRun>>(std::move(places.runs));
    for (auto& g : state.sequences) {
      g->images = runs;
      g->cache_keys = places.cache_keys;
    }
    state.request.images.clear();  // the pixels
    ++scheduled_with_images_;
  }
  state.scheduled = true;
  for (auto& g : state.sequences) {
    if (g->status != SequenceStatus::kNew) continue;  // aborted while it waited
    if (g->leader && g->leader->status == SequenceStatus::kFinished) g->leader = nullptr;
    scheduler_.add(*g);
  }
}

void Generator::release_images(RequestState& state) {
  if (state.scheduled && !state.images.empty()) --scheduled_with_images_;
  for (ImageEncoder::Entry* const entry : state.images) encoder_->release(entry);
  state.images.clear();
}

std::vector<float> Generator::encode_image(std::span<const uint8_t> tiles) {
  LLAMA4RT_CHECK(kRequest, encoder_ != nullptr, "this engine file holds no vision tower");
  return encoder_->encode_tiles(tiles);
}

void Generator::end(uint64_t id, int index, const std::string& reason) {
  const auto it = requests_.find(id);
  if (it == requests_.end()) return;
  for (auto& g : it->second.sequences)
    if (index < 0 || g->index == index) finish(*g, reason);
  drop_finished_requests();
}

std::vector<TokenEvent> Generator::step() {
  if (!flight_) step_began_ = std::chrono::steady_clock::now();
  std::vector<Slice> slices;
  const int64_t chosen_before = totals_.generated_tokens;
  try {
    if (!encoding_.empty()) encode_images();
    if (flight_) {
      slices = flight_->slices;
    } else {
      slices = scheduler_.schedule();
      if (!slices.empty()) run(slices);
    }
    if (flight_) land();
  } catch (const std::exception& e) {
    flight_.reset();  // its slices are of the same sequences
    if (slices.empty()) fail_running(e.what());
    for (const Slice& slice : slices) finish(generation(slice), "error", e.what());
  }
  const auto now = std::chrono::steady_clock::now();
  if (!slices.empty())
    count_step(slices, std::chrono::duration<double>(now - step_began_).count(), chosen_before);
  step_began_ = now;  // of the one in flight
  drop_finished_requests();
  return std::exchange(events_, {});
}

void Generator::run(std::span<const Slice> slices) {
  choose_outputs(slices);
  const Batch& batch = builder_.build(slices, outputs_);
  const auto rows = int64_t(outputs_.size());
  if (const auto key = builder_.capture_key()) {
    backend_.run_captured(*key, [&] {
      model_.forward(batch, kv_.layers());
      model_.logits(0, batch.num_outputs);
    });
    commit(slices);
    const Tensor logits = model_.latest_logits(rows);
    flight_ = take_off(slices, logits, 0);
    if (!flight_) take_rows(slices, 0, logits);
  } else {
    model_.forward(batch, kv_.layers());
    commit(slices);
    for (int64_t begin = 0; begin < rows; begin += limits_.logit_rows) {
      const Tensor logits = model_.logits(begin, std::min(limits_.logit_rows, rows - begin));
      if (logits.size(0) == rows) flight_ = take_off(slices, logits, 0);
      if (!flight_) take_rows(slices, begin, logits);
    }
  }
  for (const Slice& slice : slices) {
    Generation& g = generation(slice);
    if (g.status == SequenceStatus::kFinished || g.rows_wanted == 0) continue;
    g.rows_done = std::max(g.rows_done, std::min(slice.end(), g.rows_wanted));
    g.max_cached_tokens = g.rows_done < g.rows_wanted ? g.rows_done : INT64_MAX;
    if (g.request->request.return_logits) report_logits(g);
  }
}

// --- steps in flight
//
// A step whose every output is a token that the device chooses without the host's help is not waited for: it
// flies until land(). Before it lands the next one is submitted, if it is sure what that is: one more token
// of each of the same sequences. The device finds their ids where sampling left them; blocks, positions and
// arrays do not depend on them. Should a sequence turn out to have ended, its row of that step is computed
// for nothing: what it writes goes to blocks that are given to others only by later steps, which the device
// runs later.

// Submits the sampling of all outputs. Empty, and nothing is done, when a row is for the host.
std::optional<Generator::Flight> Generator::take_off(std::span<const Slice> slices, const Tensor& logits,
                                                     int64_t num_unknown) {
  if (!device_sampler_ || !backend_.works_behind() || outputs_.empty()) return {};
  const auto needs_host = [&](const OutputRow& output) {
    const Generation& g = generation(slices[output.slice]);
    return host_reads(g, output.position) || mask_of(g);
  };
  if (std::any_of(outputs_.begin(), outputs_.end(), needs_host)) return {};
  device_sampler_->clear();
  for (const OutputRow& output : outputs_) {
    SampleRequest sample = sample_request(generation(slices[output.slice]));
    sample.num_unknown = num_unknown;
    if (!device_sampler_->add(sample)) return {};
  }
  int32_t* const next_ids = outputs_.size() == slices.size() ? builder_.next_ids() : nullptr;
  return Flight{{slices.begin(), slices.end()}, outputs_, device_sampler_->submit(logits, next_ids)};
}

// The step after `now`, submitted, if it is known what that is.
std::optional<Generator::Flight> Generator::fly_ahead(const Flight& now) {
  if (!encoding_.empty() || now.outputs.size() != now.slices.size()) return {};
  for (const Slice& slice : now.slices) {
    const Generation& g = generation(slice);
    const SamplingParams& p = g.request->request.sampling;
    const bool needs_ids = p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0;
    const bool ends =
        g.num_output() + 1 == g.request->request.max_tokens || g.length() + 1 == plan_.max_model_len;
    if (needs_ids || ends) return {};
  }
  const std::vector<Slice> slices = scheduler_.schedule_ahead(now.slices);
  if (slices.empty()) return {};
  outputs_.clear();
  for (size_t i = 0; i < slices.size(); ++i) outputs_.push_back({i, slices[i].begin});
  const Batch& batch = builder_.build(slices, outputs_, /*ids_are_there=*/true);
  backend_.run_captured(builder_.capture_key().value(), [&] {
    model_.forward(batch, kv_.layers());
    model_.logits(0, batch.num_outputs);
  });
  std::optional<Flight> next = take_off(slices, model_.latest_logits(int64_t(slices.size())), 1);
  LLAMA4RT_CHECK(kInternal, next, "a step ahead has a row for the host");
  ++totals_.steps_ahead;
  return next;
}

// Submits the next step if it can, then waits for the one in flight and uses its tokens.
void Generator::land() {
  std::optional<Flight> next = fly_ahead(*flight_);
  const Flight now = std::move(*std::exchange(flight_, std::move(next)));
  std::vector<SampledToken> tokens = device_sampler_->collect(now.sampling);
  for (size_t r = 0; r < tokens.size(); ++r) {
    RowResult result;
    result.finite = tokens[r].token >= 0;
    result.sampled = std::move(tokens[r]);
    use_row(now.slices[now.outputs[r].slice], now.outputs[r].position, {}, result);
  }
  if (!flight_) return;
  bool anybody = false;
  for (const Slice& slice : flight_->slices) {
    if (slice.sequence->status != SequenceStatus::kRunning) continue;
    scheduler_.commit(slice);
    anybody = true;
  }
  if (anybody) return;
  backend_.wait_for(flight_->sampling.mark);
  flight_.reset();
}

void Generator::commit(std::span<const Slice> slices) {
  for (const Slice& slice : slices) {
    scheduler_.commit(slice);
    report_progress(slice);
  }
}

void Generator::take_rows(std::span<const Slice> slices, int64_t begin, const Tensor& logits) {
  if (!sample_rows(slices, begin, logits)) read_rows(slices, begin, on_host(logits));
}

// Samples the rows where they are, as many at once as the sampler takes. False: a row is for the host to see.
bool Generator::sample_rows(std::span<const Slice> slices, int64_t begin, const Tensor& logits) {
  if (!device_sampler_) return false;
  const int64_t count = logits.size(0);
  const auto slice = [&](int64_t r) -> const Slice& { return slices[outputs_[size_t(begin + r)].slice]; };
  for (int64_t r = 0; r < count; ++r)
    if (host_reads(generation(slice(r)), outputs_[size_t(begin + r)].position)) return false;
  device_sampler_->clear();
  results_.assign(size_t(count), {});
  int64_t first = 0;
  const auto sample_added = [&] {
    const int64_t rows = device_sampler_->num_rows();
    std::vector<SampledToken> tokens =
        device_sampler_->collect(device_sampler_->submit(logits.rows(first, rows)));
    for (int64_t r = 0; r < rows; ++r) results_[size_t(first + r)].sampled = std::move(tokens[size_t(r)]);
    device_sampler_->clear();
    first += rows;
  };
  for (int64_t r = 0; r < count; ++r) {
    SampleRequest sample = sample_request(generation(slice(r)));
    if (TokenMask* const mask = mask_of(generation(slice(r)))) {
      if (auto error = mask->wait(kMaskPatience))
        results_[size_t(r)].error = std::move(*error);
      else
        sample.allowed = mask->bits();
    }
    if (device_sampler_->add(sample)) continue;
    sample_added();
    LLAMA4RT_CHECK(kInternal, device_sampler_->add(sample), "a row does not fit the sampler");
  }
  sample_added();
  for (int64_t r = 0; r < count; ++r) {
    RowResult& result = results_[size_t(r)];
    result.finite = result.sampled.token >= 0;
    TokenMask* const mask = mask_of(generation(slice(r)));
    if (mask && result.error.empty()) mask->expire();
    use_row(slice(r), outputs_[size_t(begin + r)].position, {}, result);
  }
  return true;
}

// The rows where the host can read and change them.
Tensor Generator::on_host(const Tensor& logits) {
  if (backend_.host_memory()) return logits;
  host_logits_.resize(size_t(logits.numel()));
  backend_.copy_to_host(host_logits_.data(), logits.data, host_logits_.size() * sizeof(float));
  return Tensor(host_logits_.data(), DType::kF32, {logits.size(0), logits.size(1)});
}

// Rows of prompt tokens that the caller wants to see, and the last row of every slice that decides a token.
void Generator::choose_outputs(std::span<const Slice> slices) {
  outputs_.clear();
  for (size_t i = 0; i < slices.size(); ++i) {
    const Slice& slice = slices[i];
    Generation& g = generation(slice);
    const int64_t wanted_end = std::min(slice.end(), g.rows_wanted);
    const int64_t wanted_begin = std::max(slice.begin, g.rows_done);
    for (int64_t p = wanted_begin; p < wanted_end; ++p) outputs_.push_back({i, p});
    if (g.request->request.return_logits) {
      const int64_t rows = std::max<int64_t>(wanted_end - wanted_begin, 0);
      g.logits = {0, config_.vocab_size, {}};
      g.logits.values.reserve(size_t(rows * config_.vocab_size));
    } else if (slice.samples()) {
      outputs_.push_back({i, slice.end() - 1});
    }
  }
}

void Generator::read_rows(std::span<const Slice> slices, int64_t begin, const Tensor& logits) {
  const int64_t count = logits.size(0);
  const auto row = [&](int64_t r) { return std::span(logits.row<float>(r), size_t(logits.size(1))); };
  const auto output = [&](int64_t r) { return outputs_[size_t(begin + r)]; };
  results_.assign(size_t(count), {});
  const auto read = [&](Sampler& sampler, int64_t r) {
    const OutputRow& o = output(r);
    results_[size_t(r)] = read_row(sampler, row(r), slices[o.slice], o.position);
  };
  if (count > 1 && logits.numel() >= kParallelLogits) {
    pool_.run([&](int member, int members) {
      for (int64_t r = member; r < count; r += members) read(samplers_[size_t(member)], r);
    });
  } else {
    for (int64_t r = 0; r < count; ++r) read(samplers_[0], r);
  }
  for (int64_t r = 0; r < count; ++r)
    use_row(slices[output(r).slice], output(r).position, row(r), results_[size_t(r)]);
}

// Whether the caller wants numbers of this row beyond those of a token chosen from it.
bool Generator::host_reads(const Generation& g, int64_t position) {
  return g.request->request.return_logits || position < g.rows_wanted;
}

SampleRequest Generator::sample_request(const Generation& g) {
  SampleRequest sample;
  sample.params = &g.request->request.sampling;
  sample.tokens = g.tokens;
  sample.num_prompt = g.num_prompt;
  sample.end_tokens = g.request->end_tokens;
  sample.seed = g.request->seed;
  sample.index = uint32_t(g.index);
  return sample;
}

TokenMask* Generator::mask_of(const Generation& g) {
  const auto& masks = g.request->request.masks;
  return masks.empty() ? nullptr : masks[size_t(g.index)].get();
}

// Touches nothing but its row: rows are read side by side.
Generator::RowResult Generator::read_row(Sampler& sampler, std::span<float> row, const Slice& slice,
                                         int64_t position) const {
  const Generation& g = generation(slice);
  const RequestState& state = *g.request;
  RowResult result;
  if (state.request.return_logits) return result;
  if (position < g.rows_wanted) {
    result.finite = sampler.logprobs(result.of_next_token, row, g.tokens[size_t(position + 1)],
                                     state.request.prompt_logprobs);
    return result;
  }
  SampleRequest sample = sample_request(g);
  TokenMask* const mask = mask_of(g);
  if (mask) {
    if (auto error = mask->wait(kMaskPatience)) {
      result.error = std::move(*error);
      return result;
    }
    sample.allowed = mask->bits();
  }
  result.sampled = sampler.sample(row, sample);
  result.finite = result.sampled.token >= 0;
  if (mask) mask->expire();
  return result;
}

void Generator::use_row(const Slice& slice, int64_t position, std::span<const float> row, RowResult& result) {
  Generation& g = generation(slice);
  if (g.status == SequenceStatus::kFinished) return;  // an earlier row of the same slice was not finite
  if (!result.error.empty()) return finish(g, "error", result.error);
  if (!result.finite) {
    TokenEvent& event = report(g);
    event.error = error_text("the logits of position ", position, " hold NaN or infinity");
    event.not_finite = true;
    return conclude(g, event, "error");
  }
  if (g.request->request.return_logits) {
    g.logits.values.insert(g.logits.values.end(), row.begin(), row.end());
    ++g.logits.rows;
  } else if (position < g.rows_wanted) {
    g.prompt_logprobs.push_back(std::move(result.of_next_token));
  } else {
    accept(g, result.sampled);
  }
}

void Generator::accept(Generation& g, SampledToken& sampled) {
  const std::vector<int32_t>& ends = g.request->end_tokens;
  TokenEvent& event = report(g);
  if (std::find(ends.begin(), ends.end(), sampled.token) != ends.end()) {
    event.stop_token_id = sampled.token;
    return conclude(g, event, "stop");
  }
  g.append(sampled.token);
  ++totals_.generated_tokens;
  event.token_id = sampled.token;
  event.logprobs = std::move(sampled.logprobs);
  if (g.num_output() == g.request->request.max_tokens || g.length() == plan_.max_model_len)
    conclude(g, event, "length");
}

// Pieces of a prompt before its last: that one is followed by a token.
void Generator::report_progress(const Slice& slice) {
  const Generation& g = generation(slice);
  if (!g.request->request.report_progress || g.index != 0 || slice.end() >= g.num_prompt) return;
  TokenEvent& event = events_.emplace_back();
  event.request_id = g.request->id;
  event.prompt_computed = slice.end();
  event.cached_tokens = std::max<int64_t>(g.cached_tokens, 0);
}

// The logits of one slice at a time: those of a long prompt are never in memory together here.
void Generator::report_logits(Generation& g) {
  TokenEvent& event = report(g);
  event.logits = std::exchange(g.logits, {});
  if (g.rows_done == g.rows_wanted) conclude(g, event, "length");
}

void Generator::finish(Generation& g, const std::string& reason, const std::string& error) {
  if (g.status == SequenceStatus::kFinished) return;
  TokenEvent& event = report(g);
  event.error = error;
  conclude(g, event, reason);
}

// Every end of a sequence passes here.
void Generator::conclude(Generation& g, TokenEvent& event, const std::string& reason) {
  event.finish_reason = reason;
  scheduler_.release(g);
  --g.request->live;
  requests_may_be_finished_ = true;
}

TokenEvent& Generator::report(Generation& g) {
  TokenEvent& event = events_.emplace_back();
  const Request& request = g.request->request;
  event.request_id = g.request->id;
  event.index = g.index;
  if (g.reported) return event;
  g.reported = true;
  event.cached_tokens = std::max<int64_t>(g.cached_tokens, 0);
  const bool asked = request.prompt_logprobs >= 0 && !request.return_logits && g.index == 0;
  if (asked && int64_t(g.prompt_logprobs.size()) == g.rows_wanted)
    event.prompt_logprobs = std::move(g.prompt_logprobs);
  return event;
}

// Something is wrong with the schedule itself: nobody who holds blocks can be trusted to go on.
void Generator::fail_running(const std::string& error) {
  for (auto& [id, state] : requests_)
    for (auto& g : state.sequences)
      if (g->status == SequenceStatus::kRunning) finish(*g, "error", error);
}

void Generator::drop_finished_requests() {
  if (!std::exchange(requests_may_be_finished_, false)) return;
  const auto flies = [this](const RequestState& state) {
    return flight_ && std::any_of(flight_->slices.begin(), flight_->slices.end(),
                                  [&](const Slice& slice) { return generation(slice).request == &state; });
  };
  for (auto it = requests_.begin(); it != requests_.end();) {
    if (it->second.live > 0) {
      ++it;
    } else if (flies(it->second)) {
      requests_may_be_finished_ = true;  // later
      ++it;
    } else {
      release_images(it->second);
      it = requests_.erase(it);
    }
  }
}

void Generator::count_step(std::span<const Slice> slices, double seconds, int64_t chosen_before) {
  RecentStep& step = recent_[num_steps_++ % recent_.size()];
  step = {seconds, 0, totals_.generated_tokens - chosen_before};
  for (const Slice& slice : slices)
    step.prompt_tokens +=
        std::max<int64_t>(std::min(slice.end(), slice.sequence->num_prompt) - slice.begin, 0);
  totals_.prompt_tokens += step.prompt_tokens;
  ++totals_.steps;
}

EngineStats Generator::stats() const {
  EngineStats stats = totals_;
  stats.scheduler = scheduler_.stats();
  for (const uint64_t id : encoding_)
    if (const auto it = requests_.find(id); it != requests_.end()) stats.scheduler.waiting += it->second.live;
  if (encoder_) stats.images = encoder_->stats();
  stats.expert_tokens = model_.expert_tokens();
  stats.global = group_stats(scheduler_.global_blocks());
  stats.local = group_stats(scheduler_.local_blocks());
  double seconds = 0;
  for (const RecentStep& step : recent_) {
    seconds += step.seconds;
    stats.prompt_tokens_per_second += double(step.prompt_tokens);
    stats.generated_tokens_per_second += double(step.generated_tokens);
  }
  if (seconds > 0) {
    stats.prompt_tokens_per_second /= seconds;
    stats.generated_tokens_per_second /= seconds;
  }
  return stats;
}

}  // namespace llama4rt
