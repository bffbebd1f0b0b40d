// The prefix cache: directed cases of the two groups, then random operations against a map from whole
// prefixes to blocks, with hashes of 64 and of 4 bits.
#include "runtime/sequences/prefix_cache.h"

#include <list>
#include <map>
#include <random>
#include <vector>

#include "test.h"

namespace llama4rt {
namespace {

constexpr int32_t kNone = BlockAllocator::kNoBlock;
using Tokens = std::vector<int32_t>;

Tokens iota_tokens(int count, int32_t first = 0) {
  Tokens tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(first + i);
  return tokens;
}

// Computes `tokens` as a sequence would: resumes, extends block by block, drops local blocks at chunk ends.
struct Writer {
  PrefixCache& cache;
  BlockAllocator& global;
  BlockAllocator& local;
  int64_t block_size, chunk;
  PrefixCache::NodeId tail = PrefixCache::kRoot;
  std::vector<int32_t> globals = {}, locals = {};

  int64_t resume(const Tokens& tokens, int64_t limit) {
    PrefixCache::Match match = cache.acquire(tokens, limit);
    tail = match.tail;
    globals = match.global;
    locals = match.local;
    return match.num_tokens;
  }
  // False when blocks ran out.
  bool extend(const Tokens& tokens, int64_t begin) {
    int32_t g = kNone, l = kNone;
    if (global.num_blocks() > 0 && (g = global.allocate()) == kNone) return false;
    if (local.num_blocks() > 0 && (l = local.allocate()) == kNone) {
      if (g != kNone) global.release(g);
      return false;
    }
    tail = cache.extend(tail, std::span(tokens).subspan(size_t(begin), size_t(block_size)), g, l);
    if (g != kNone) globals.push_back(g);
    if (l != kNone) locals.push_back(l);
    if (chunk > 0 && (begin + block_size) % chunk == 0) drop_locals();
    return true;
  }
  void drop_locals() {
    for (; !locals.empty(); locals.pop_back()) local.release(locals.back());
  }
  void finish() {
    drop_locals();
    for (; !globals.empty(); globals.pop_back()) global.release(globals.back());
    cache.unpin(tail);
    tail = PrefixCache::kRoot;
  }
  int64_t write(const Tokens& tokens) {
    const int64_t hit = resume(tokens, int64_t(tokens.size()) - 1);
    for (int64_t b = hit; b + block_size <= int64_t(tokens.size()); b += block_size) CHECK(extend(tokens, b));
    return hit;
  }
};

TEST(finds_the_longest_prefix_and_leaves_one_token_to_compute) {
  BlockAllocator global(16), local(16);
  PrefixCache cache(global, local, 4, 8);
  Writer w{cache, global, local, 4, 8};
  const Tokens tokens = iota_tokens(16);
  CHECK_EQ(w.write(tokens), 0);
  w.finish();
  CHECK_EQ(global.num_cached(), 4);
  CHECK_EQ(w.resume(tokens, 15), 12);  // not 16: somebody must produce logits
  CHECK_EQ(w.globals.size(), size_t(3));
  CHECK_EQ(w.locals.size(), size_t(1));  // [8, 12)
  w.finish();
  CHECK_EQ(w.resume(iota_tokens(17), 16), 16);
  CHECK_EQ(w.locals.size(), size_t(0));  // a attention chunk boundary needs no local block
  w.finish();
  Tokens other = tokens;
  other[5] = 99;
  CHECK_EQ(w.resume(other, 15), 4);
  w.finish();
  other = tokens;
  other[0] = 99;
  CHECK_EQ(w.resume(other, 15), 0);
  w.finish();
  CHECK_EQ(global.num_used() + local.num_used(), 0);
}

TEST(without_local_blocks_resumes_at_chunk_boundaries_only) {
  BlockAllocator global(16), local(2);  // local: one chunk, so older chunks lose theirs
  PrefixCache cache(global, local, 4, 8);
  Writer w{cache, global, local, 4, 8};
  const Tokens tokens = iota_tokens(24);
  w.write(tokens);
  w.finish();
  // Only the last chunk's local blocks survive: 12 would need the local block of [8, 12).
  CHECK_EQ(w.resume(tokens, 15), 8);
  w.finish();
  CHECK_EQ(w.resume(tokens, 20), 20);
  w.finish();
}

TEST(keeps_equal_blocks_once) {
  BlockAllocator global(16), local(0);
  PrefixCache cache(global, local, 4, 0);
  Writer a{cache, global, local, 4, 0}, b{cache, global, local, 4, 0};
  const Tokens tokens = iota_tokens(8);
  for (int64_t begin : {0, 4}) {  // side by side, as two sequences of one step
    CHECK(a.extend(tokens, begin));
    CHECK(b.extend(tokens, begin));
  }
  CHECK(a.globals == b.globals);
  CHECK_EQ(global.num_used(), 2);
  a.finish();
  CHECK_EQ(global.num_used(), 2);
  b.finish();
  CHECK_EQ(global.num_used(), 0);
  CHECK_EQ(global.num_cached(), 2);
  CHECK_EQ(cache.num_nodes(), size_t(2));
}

TEST(forgets_evicted_blocks_from_the_end) {
  BlockAllocator global(4), local(0);
  PrefixCache cache(global, local, 4, 0);
  Writer w{cache, global, local, 4, 0};
  w.write(iota_tokens(16));
  w.finish();
  const int32_t taken = global.allocate();
  CHECK_EQ(w.resume(iota_tokens(17), 16), 12);
  w.finish();
  CHECK_EQ(cache.num_nodes(), size_t(3));
  global.release(taken);
}

// What one run of random operations looked like from outside.
struct Trace {
  std::vector<int64_t> hits;
  std::vector<int32_t> blocks;
  bool operator==(const Trace&) const = default;
};

Trace random_run(uint32_t seed, int hash_bits, bool has_global, bool has_local) {
  constexpr int64_t kBlock = 2;
  const int64_t chunk = has_local ? 6 : 0;
  std::mt19937 random(seed);
  BlockAllocator global(has_global ? 14 : 0), local(has_local ? 9 : 0);
  PrefixCache cache(global, local, kBlock, chunk, hash_bits);

  // The model: which whole prefixes have a block, and of whom.
  struct Copies {
    int32_t global = kNone, local = kNone;
  };
  std::map<Tokens, Copies> model;
  auto forget = [&](BlockAllocator& group, bool is_global) {
    group.on_evict = [&model, is_global, inner = group.on_evict](int32_t block) {
      for (auto& [prefix, copies] : model) {
        if (is_global && copies.global == block) copies = {};
        if (!is_global && copies.local == block) copies.local = kNone;
      }
      inner(block);
    };
  };
  forget(global, true);
  forget(local, false);
  const auto expected_hit = [&](const Tokens& tokens, int64_t limit) {
    int64_t best = 0;
    for (int64_t n = kBlock; n <= limit; n += kBlock) {
      bool good = true;
      for (int64_t p = kBlock; p <= n; p += kBlock) {
        const auto it = model.find(Tokens(tokens.begin(), tokens.begin() + p));
        const Copies copies = it == model.end() ? Copies{} : it->second;
        if (has_global && copies.global == kNone) good = false;
        if (has_local && p > n - n % chunk && copies.local == kNone) good = false;
      }
      if (good) best = n;
    }
    return best;
  };

  struct Live {
    Writer writer;
    Tokens tokens;
    int64_t done;
  };
  std::list<Live> live;
  Trace trace;
  for (int step = 0; step < 1500; ++step) {
    const uint32_t what = random() % 8;
    if (what == 0 && live.size() < 3) {
      Tokens tokens(5 + random() % 14);
      for (int32_t& token : tokens) token = random() % 6 == 0;  // long common prefixes
      Live one{Writer{cache, global, local, kBlock, chunk}, tokens, 0};
      const int64_t limit = int64_t(tokens.size()) - 1;
      const int64_t expected = expected_hit(tokens, limit);
      one.done = one.writer.resume(tokens, limit);
      if (has_global) CHECK_EQ(one.done, expected);
      if (!has_global) CHECK(one.done <= expected);  // the trie also has to know the tokens
      trace.hits.push_back(one.done);
      live.push_back(one);
    } else if (what <= 5 && !live.empty()) {
      Live& one = *std::next(live.begin(), std::ptrdiff_t(random() % live.size()));
      if (one.done + kBlock <= int64_t(one.tokens.size())) {
        const int64_t begin = one.done;
        if (one.writer.extend(one.tokens, begin)) {
          one.done += kBlock;
          Copies& copies = model[Tokens(one.tokens.begin(), one.tokens.begin() + one.done)];
          if (has_global) copies.global = one.writer.globals.back();
          // At a chunk's end the writer has dropped its list; nothing ever needs that block again.
          if (has_local && !one.writer.locals.empty()) copies.local = one.writer.locals.back();
        }
      }
    } else if (what > 5 && !live.empty()) {
      const auto victim = std::next(live.begin(), std::ptrdiff_t(random() % live.size()));
      victim->writer.finish();
      live.erase(victim);
    }
    for (const Live& one : live)
      for (int32_t block : one.writer.globals) {
        CHECK(global.references(block) > 0);
        trace.blocks.push_back(block);
      }
  }
  for (Live& one : live) one.writer.finish();
  CHECK_EQ(global.num_used(), 0);
  CHECK_EQ(local.num_used(), 0);
  // No node outlives its use: a node has a block, or leads to one that has.
  CHECK(cache.num_nodes() <= size_t(global.num_cached() + local.num_cached()) * 10);
  return trace;
}

TEST(matches_a_simple_model_and_survives_hash_collisions) {
  for (uint32_t seed = 1; seed <= 30; ++seed)
    for (const auto& [has_global, has_local] : {std::pair{true, true}, {true, false}, {false, true}}) {
      const Trace exact = random_run(seed, 64, has_global, has_local);
      CHECK(exact == random_run(seed, 4, has_global, has_local));
      CHECK(exact == random_run(seed, 0, has_global, has_local));
    }
}

}  // namespace
}  // namespace llama4rt
