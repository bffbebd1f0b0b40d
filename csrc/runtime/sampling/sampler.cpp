#include "runtime/sampling/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "runtime/sampling/philox.h"

namespace llama4rt {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Most distributions reach top_p within this many tokens.
constexpr int64_t kFirstBest = 256;

void top_logprobs(TokenLogprobs& out, const RowView& view, double log_sum, int64_t top) {
  if (top == 0) return;
  for (const auto& [id, logit] : view.top(top)) out.top.emplace_back(id, float(double(logit) - log_sum));
}

// What each half byte of a mask keeps of four floats, as bits.
constexpr auto kKept = [] {
  std::array<std::array<uint32_t, 4>, 16> kept{};
  for (uint32_t bits = 0; bits < 16; ++bits)
    for (uint32_t i = 0; i < 4; ++i) kept[bits][i] = bits >> i & 1u ? 0xFFFFFFFFu : 0;
  return kept;
}();

// The first token, in the order `before`, at which the weights of all up to it reach `wanted`; the last one when they
// do not. `weight` belongs to what a range holds. Halves the candidates until the place is found, without sorting all.
template <class T, class Before, class Weight>
T reaching(std::vector<T>& all, double mass, double wanted, const Before& before, const Weight& weight) {
  auto begin = all.begin(), end = all.end();
  while (end - begin > kFirstBest) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, before);
    double half = 0;
    for (auto it = begin; it != middle; ++it) half += weight(*it);
    if (mass + half >= wanted) {
      end = middle;
    } else {
      mass += half;
      begin = middle;
    }
  }
  std::sort(begin, end, before);
  for (auto it = begin; it != end; ++it) {
    mass += weight(*it);
    if (mass >= wanted) return *it;
  }
  return *(end - 1);
}

// Without branches, which a mask inside a text of many tokens would mispredict for ever.
void keep_of_four(float* x, uint32_t bits) {
  constexpr auto forbidden = std::bit_cast<uint32_t>(-kInfinity);
  for (size_t i = 0; i < 4; ++i) {
    const uint32_t kept = kKept[bits][i];
    x[i] = std::bit_cast<float>((std::bit_cast<uint32_t>(x[i]) & kept) | (forbidden & ~kept));
  }
}

}  // namespace

bool completes_bad_word(std::span<const int32_t> output, const std::vector<int64_t>& word) {
  const size_t before = word.size() - 1;
  return before <= output.size() &&
         std::equal(output.end() - std::ptrdiff_t(before), output.end(), word.begin());
}

SampledToken Sampler::sample(std::span<float> row, const SampleRequest& request) {
  const SamplingParams& params = *request.params;
  SampledToken out;
  view_.look(row.data(), int64_t(row.size()));
  if (!view_.finite()) return out;
  double log_sum = 0;  // of the model's own logits, before they are edited
  if (params.logprobs >= 0) {
    log_sum = view_.log_sum_exp();
    top_logprobs(out.logprobs, view_, log_sum, params.logprobs);
  }

  const bool greedy = params.temperature < kGreedyTemperature, masked = !request.allowed.empty();
  bool changed = edit(row, request);
  if (masked && !greedy) {
    forbid(row, request.allowed);
    changed = true;
  }
  if (changed) view_.look(row.data(), int64_t(row.size()));
  if (masked && greedy) {  // no need to write into the row
    const int32_t best = view_.argmax(request.allowed);
    if (best < 0 || !(row[size_t(best)] < kInfinity)) return out;
    out.token = best;
  } else {
    if (changed && !(view_.max() < kInfinity && view_.max() > -kInfinity)) return out;
    out.token = greedy
                    ? view_.argmax()
                    : draw(row, params, philox_uniform(request.seed, request.index, request.tokens.size()));
  }
  if (params.logprobs >= 0) out.logprobs.logprob = float(double(raw_logit(row, out.token)) - log_sum);
  return out;
}

bool Sampler::logprobs(TokenLogprobs& out, std::span<const float> row, int32_t token, int64_t top) {
  view_.look(row.data(), int64_t(row.size()));
  if (!view_.finite()) return false;
  const double log_sum = view_.log_sum_exp();
  out.logprob = float(double(row[size_t(token)]) - log_sum);
  top_logprobs(out, view_, log_sum, top);
  return true;
}

// True when the row was changed.
bool Sampler::edit(std::span<float> row, const SampleRequest& request) {
  const SamplingParams& params = *request.params;
  edits_.clear();
  for (const auto& [id, bias] : params.logit_bias) set(row, int32_t(id), row[size_t(id)] + float(bias));
  if (int64_t(request.tokens.size()) - request.num_prompt < params.min_tokens)
    for (int32_t id : request.end_tokens) set(row, id, -kInfinity);
  for (const auto& word : params.bad_words)
    if (completes_bad_word(request.tokens.subspan(size_t(request.num_prompt)), word))
      set(row, int32_t(word.back()), -kInfinity);
  penalise(row, request);
  return !edits_.empty();
}

// Not remembered as edits: what is forbidden is never chosen, so nobody asks for its logit.
void Sampler::forbid(std::span<float> row, std::span<const uint32_t> allowed) {
  for (size_t begin = 0, word = 0; begin < row.size(); begin += 32, ++word) {
    const uint32_t bits = allowed[word];
    if (bits == 0xFFFFFFFFu) continue;
    const size_t count = std::min<size_t>(32, row.size() - begin);
    float* const x = row.data() + begin;
    if (bits == 0) {
      std::fill_n(x, count, -kInfinity);
    } else if (count == 32) {
      for (size_t i = 0; i < 32; i += 4) keep_of_four(x + i, bits >> i & 15u);
    } else {
      for (size_t i = 0; i < count; ++i)
        if (!(bits >> i & 1u)) x[i] = -kInfinity;
    }
  }
}

void Sampler::penalise(std::span<float> row, const SampleRequest& request) {
  const SamplingParams& params = *request.params;
  const bool repetition = params.repetition_penalty != 1;
  if (!repetition && params.presence_penalty == 0 && params.frequency_penalty == 0) return;
  // The high bit: the token occurs anywhere. The rest: how often it occurs in the output.
  constexpr uint32_t kOccurs = 0x80000000u;
  seen_.resize(row.size());
  const auto output = request.tokens.subspan(size_t(request.num_prompt));
  const auto considered = repetition ? request.tokens : output;
  for (int32_t id : considered) seen_[size_t(id)] |= kOccurs;
  for (int32_t id : output) ++seen_[size_t(id)];
  for (int32_t id : considered) {
    uint32_t& seen = seen_[size_t(id)];
    if (seen == 0) continue;  // a later occurrence of a token already done
    const auto count = float(seen & ~kOccurs);
    seen = 0;
    float logit = row[size_t(id)];
    if (repetition)
      logit = logit > 0 ? logit / float(params.repetition_penalty) : logit * float(params.repetition_penalty);
    logit -= float(params.frequency_penalty) * count;
    if (count > 0) logit -= float(params.presence_penalty);
    set(row, id, logit);
  }
}

void Sampler::set(std::span<float> row, int32_t id, float value) {
  edits_.emplace_back(id, row[size_t(id)]);
  row[size_t(id)] = value;
}

float Sampler::raw_logit(std::span<const float> row, int32_t id) const {
  const auto first =
      std::find_if(edits_.begin(), edits_.end(), [id](const auto& e) { return e.first == id; });
  return first == edits_.end() ? row[size_t(id)] : first->second;
}

int32_t Sampler::draw(std::span<const float> row, const SamplingParams& params, double uniform) {
  weights_.resize(row.size());
  double total = softmax_weights(weights_, block_sums_, row.data(), view_.max(), float(params.temperature),
                                 float(params.min_p));
  const bool limited = params.top_k > 0 && params.top_k < int64_t(row.size());
  if (limited || params.top_p < 1)
    total = keep_down_to(weights_, block_sums_, row.data(), last_kept(row, params, total));
  if (params.typical_p < 1) total = keep_typical(row, params, total);
  return draw_by_id(total, uniform);
}

// The worst token that top-k and top-p leave.
std::pair<int32_t, float> Sampler::last_kept(std::span<const float> row, const SamplingParams& params,
                                             double total) const {
  const auto size = int64_t(row.size());
  const bool limited = params.top_k > 0 && params.top_k < size;
  const auto weight = [this](const std::pair<int32_t, float>& token) {
    return double(weights_[size_t(token.first)]);
  };
  const auto best = view_.top(limited ? params.top_k : kFirstBest);
  if (limited) {  // top-p then refers to what top-k left
    total = 0;
    for (const auto& token : best) total += weight(token);
  }
  if (params.top_p >= 1) return best.back();
  const double wanted = params.top_p * total;
  double mass = 0;
  for (const auto& token : best) {
    mass += weight(token);
    if (mass >= wanted) return token;
  }
  if (limited) return best.back();

  // A flat distribution.
  std::vector<std::pair<int32_t, float>> all;
  for (size_t id = 0; id < row.size(); ++id)
    if (weights_[id] > 0) all.emplace_back(int32_t(id), row[id]);
  return reaching(all, 0, wanted, better_token, weight);
}

// Locally typical sampling (Meister et al. 2022): keeps the tokens whose surprise is nearest to the entropy of what is
// left, until they hold typical_p of it. With y = (logit - max) / temperature and p = weight / total the surprise is
// log Z - y and the entropy log Z - sum p y: their distance is |y - sum p y|, without a logarithm, which would differ
// between machines. The mean is summed over ids in ascending order. Returns the total of what is kept.
double Sampler::keep_typical(std::span<const float> row, const SamplingParams& params, double total) {
  const auto temperature = float(params.temperature);
  const auto y = [&](size_t id) { return double((row[id] - view_.max()) / temperature); };
  double sum = 0;
  for (size_t id = 0; id < row.size(); ++id)
    if (weights_[id] > 0) sum += double(weights_[id]) * y(id);
  const double mean = sum / total;
  using Token = std::pair<double, int32_t>;  // (distance, id): equals by id
  std::vector<Token> all;
  for (size_t id = 0; id < row.size(); ++id)
    if (weights_[id] > 0) all.emplace_back(std::abs(y(id) - mean), int32_t(id));
  const auto weight = [this](const Token& token) { return double(weights_[size_t(token.second)]); };
  const Token last = reaching(all, 0, params.typical_p * total, std::less<>(), weight);
  for (const Token& token : all)
    if (last < token) weights_[size_t(token.second)] = 0;
  return sum_blocks(weights_, block_sums_);
}

// Walks the cumulative weights in order of id, block by block.
int32_t Sampler::draw_by_id(double total, double uniform) const {
  double left = uniform * total;  // below the total: no product with a number below 1 rounds up to it
  size_t block = 0;
  while (block + 1 < block_sums_.size() && !(left < block_sums_[block])) left -= block_sums_[block++];
  for (size_t id = block * kRowBlock; id < weights_.size(); ++id) {
    left -= double(weights_[id]);
    if (left < 0) return int32_t(id);
  }
  return view_.argmax();  // never: sums of weights are exact
}

}  // namespace llama4rt
