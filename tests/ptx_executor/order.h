// Who may rely on whose accesses. Kept by the rules of the PTX memory model that this project's kernels use: barriers of
// block and warp, mbarriers, fence + atomic between blocks, and fence.proxy.async before asynchronous reads. An access to
// bytes that another thread touched is a race unless one of these stands between, whatever order the executor chose.
//
// Every warp counts its releases; an access carries its thread and that count. A view says, for each thread of the block,
// up to which count its accesses are known. Views are shared between lanes and never changed once they are.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "ptx_executor/warp.h"

namespace llama4rt::ptx_executor {

using Counts = std::vector<uint32_t>;  // per thread of a block

struct View {
  Counts seen;
  std::map<uint32_t, std::shared_ptr<const Counts>> others;  // of other blocks, by their number
};
using ViewPtr = std::shared_ptr<const View>;

class Order {
 public:
  // number: of the block, among all that ever ran. Shared memory of so many bytes from `shared_begin` on.
  Order(uint32_t number, int warps, uint32_t shared_begin, uint32_t shared_bytes);

  // --- accesses; a race is a fault of the lane
  enum class How : uint8_t { kPlain, kAsync };
  void read_shared(const Warp& w, int lane, uint32_t address, int64_t bytes);
  void write_shared(const Warp& w, int lane, uint32_t address, int64_t bytes, How how);
  // By a wgmma or a bulk store.
  void read_shared_async(const Warp& w, int lane, uint32_t address, int64_t bytes);
  // A word of global memory; `tag` is its own.
  struct Tag {
    uint32_t block = 0;  // number; 0: no kernel wrote it, or several wrote parts of it
    uint32_t thread = 0, count = 0;
  };
  void read_global(const Warp& w, int lane, const Tag& tag) const;
  // Of a part of a word nothing is kept, since another thread's part may stand beside.
  void write_global(const Warp& w, int lane, Tag& tag, bool whole_word) const;

  // --- what orders them
  // What these lanes have done so far, and know, joins `into`.
  void release(const Warp& w, uint32_t lanes, ViewPtr& into);
  // They know from now on what `from` says.
  void acquire(const Warp& w, uint32_t lanes, const ViewPtr& from);
  // The lanes among themselves.
  void meet(const Warp& w, uint32_t lanes);
  void fence(const Warp& w, uint32_t lanes);
  void fence_proxy(const Warp& w, uint32_t lanes);
  // By a relaxed atomic on this address.
  void atomic(const Warp& w, int lane, uint64_t address, std::map<uint64_t, ViewPtr>& objects);
  // The count of an asynchronous copy that this warp starts; what it writes carries it, until somebody may know.
  uint32_t start_copy(const Warp& w);
  void copy_known_to(ViewPtr& into, int thread, uint32_t count) const;

 private:
  struct Readers {
    uint32_t count = 0, lanes = 0;
    int16_t warp = -1;
  };
  struct Word {
    uint32_t writer = 0, count = 0;  // count 0: nobody
    uint32_t pc = 0;                 // where it was written
    bool is_async = false;
    Readers readers[2];
  };

  bool knows(int thread, uint32_t other, uint32_t count) const {
    return uint32_t(thread) == other || views_[size_t(thread)]->seen[other] >= count;
  }
  // Halves of words are told apart: threads beside each other write numbers of 16 bits.
  static constexpr int kGrain = 2;  // bytes
  Word& word(uint32_t address) { return words_[(address - shared_begin_) / kGrain]; }
  uint32_t count_of(const Warp& w) const { return counts_[size_t(w.index)]; }
  [[noreturn]] void race(const Warp& w, int lane, const char* what, uint32_t address, uint32_t other,
                         uint32_t pc) const;
  ViewPtr published(const Warp& w, uint32_t lanes);

  uint32_t number_, shared_begin_;
  Counts counts_;               // of each warp; an access carries the count at its time
  std::vector<ViewPtr> views_;  // of each thread
  Counts proxied_;              // of each thread: the count up to which its stores passed fence.proxy.async
  std::vector<ViewPtr> fenced_, met_;  // of each thread: at its last fence; met by atomics since
  std::vector<Word> words_;
};

// What either says. `into` may be null.
void join(ViewPtr& into, const ViewPtr& from);

}  // namespace llama4rt::ptx_executor
