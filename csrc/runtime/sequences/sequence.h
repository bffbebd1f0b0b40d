// Sequence: one continuation being generated, as the scheduler sees it: its tokens, how many of them have
// keys and values, and the blocks that hold those. No tensor and no sampling here. Owned by the engine;
// blocks and status change only inside the scheduler.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/tensor.h"
#include "runtime/sequences/prefix_cache.h"

namespace llama4rt {

class Adapter;  // model/adapter.h

enum class SequenceStatus : uint8_t { kNew, kWaiting, kRunning, kFinished };

// Consecutive positions of a prompt whose embeddings come from a picture.
struct ImageRun {
  int64_t begin = 0;  // position of the first
  Tensor embeddings;  // F32 [positions, H]
};

struct Sequence {
  uint64_t arrival = 0;         // unique and rising; smaller is older and goes first
  uint64_t client = 0;          // whose it is: the clients take turns, whatever each has waiting
  uint64_t of_request = 0;      // the sequences of one request have equal numbers
  std::vector<int32_t> tokens;  // prompt, then output
  int64_t num_prompt = 0;
  std::shared_ptr<const std::vector<ImageRun>> images;  // by position; null without pictures
  // What the prefix cache compares where it is not the tokens: the patches of a picture are equal tokens, so
  // here a negative number that belongs to the picture stands for them. Empty, or as long as `tokens`.
  std::vector<int32_t> cache_keys;
  std::shared_ptr<const Adapter> adapter;
  // Where its blocks hang in the prefix cache: keys and values under one adapter are not those under another.
  PrefixCache::NodeId cache_root = PrefixCache::kRoot;
  int64_t assume_computed = 0;  // Request::assume_computed
  bool use_prefix_cache = true;
  // A prefix hit may skip at most this many tokens: whoever wants the logits of prompt rows must compute
  // them.
  int64_t max_cached_tokens = INT64_MAX;
  // Waits until this sequence (of the same request) has computed the shared prompt, to find it in the cache.
  const Sequence* leader = nullptr;

  SequenceStatus status = SequenceStatus::kNew;
  bool held = false;                   // takes part in no step until that changes: Scheduler::hold
  int64_t num_computed = 0;            // positions whose keys and values are in blocks
  int64_t cached_tokens = -1;          // prefix hit at first admission; -1 before
  std::vector<int32_t> global_blocks;  // of positions [0, ...)
  // From the start of the attention chunk that holds position num_computed.
  std::vector<int32_t> local_blocks;
  PrefixCache::NodeId tail = PrefixCache::kRoot;  // node of the last block known to the prefix cache
  int64_t num_registered = 0;                     // blocks known to the prefix cache

  const std::vector<int32_t>& keys() const { return cache_keys.empty() ? tokens : cache_keys; }
  void append(int32_t token) {
    tokens.push_back(token);
    if (!cache_keys.empty()) cache_keys.push_back(token);
  }
  int64_t length() const { return int64_t(tokens.size()); }
  int64_t num_output() const { return length() - num_prompt; }
  int64_t num_remaining() const { return length() - num_computed; }
};

// A run of consecutive tokens of one sequence that one step computes.
struct Chunk {
  Sequence* sequence = nullptr;
  int64_t begin = 0;  // position of the first token
  int count = 0;
  // The chunk's last tokens where they lie behind the last known one: somebody's guess of what comes next. Each row
  // before a guess says whether it was right; nothing of it enters the sequence before that.
  std::vector<int32_t> guesses{};

  int64_t end() const { return begin + count; }
  int64_t known_end() const { return end() - int64_t(guesses.size()); }
  // The chunk reaches the last known token: its row decides the next one.
  bool samples() const { return known_end() == sequence->length(); }
};

}  // namespace llama4rt
