// KvStore: blocks of keys and values in a directory that several processes share, and that outlives them. It is a
// cache of what can be computed again: whatever is wrong with a file costs time and is said in notes(), never a wrong
// byte. Reading and writing happen in a thread of its own, with bounded memory; nothing here waits for a disk but the
// constructor (which lists what is there), export_blocks() and the destructor.
//
// Each writer appends to segments of its own (segment.h), one for each layer group: the blocks of global layers are
// needed as long as a text is, those of local layers only while it stands in their attention chunk. When the directory
// grows past its limit, whole segments go, the longest unused first; their times of modification say when they were
// used. A segment that is being written is locked, so nobody removes it; a reader of a removed one reads on.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "runtime/store/segment.h"

namespace llama4rt {

struct StoreOptions {
  std::string directory;  // made when it is not there
  int64_t max_bytes = 0;  // of all segments in it, whoever's
  StoreShape shape;
};

struct StoreStats {
  int64_t blocks = 0;                             // records known to be readable
  int64_t bytes = 0;                              // of all segments of the directory
  int64_t written_blocks = 0, written_bytes = 0;  // by this engine
  int64_t read_blocks = 0, read_bytes = 0;
  int64_t damaged = 0;  // records that could not be used
  int64_t pending = 0;  // blocks on their way to the disk
};

class KvStore {
 public:
  // Throws kConfig when the directory cannot be used.
  explicit KvStore(const StoreOptions& options);
  // Writes what is queued.
  ~KvStore();
  KvStore(const KvStore&) = delete;
  KvStore& operator=(const KvStore&) = delete;

  const StoreShape& shape() const { return options_.shape; }
  // On disk; with `or_queued` also on its way there.
  bool has(const BlockKey& key, StoreGroup group, bool or_queued = false) const;
  // The blocks are in use: their segments are the last to go.
  void touch(std::span<const BlockKey> keys);

  // Whether put() may take a block now: what is queued stays within a limit.
  bool has_room() const;
  // The bytes of a block, of the shape's size. Of no effect for one that is there.
  void put(BlockName name, std::vector<std::byte> payload);
  // Waits until put() may take a block, or all is written, at most so long.
  void wait_for_room(std::chrono::milliseconds most) const;
  void flush();

  // Blocks that are read in order, ahead of who takes them. The first that cannot be read ends it.
  struct Reading {
    std::vector<BlockName> wanted;

   private:
    friend class KvStore;
    size_t next = 0;                           // to be read
    std::deque<std::vector<std::byte>> ready;  // before `next`, not taken
    bool failed = false, cancelled = false;
  };
  std::shared_ptr<Reading> read(std::vector<BlockName> wanted);
  void cancel(Reading& reading);
  // The bytes of the next block, if they are there.
  std::optional<std::vector<std::byte>> take(Reading& reading);
  // Nothing more will come.
  bool ended(const Reading& reading) const;
  // Waits until one of the readings has something to take or has ended, at most so long.
  void wait_for(std::span<const std::shared_ptr<Reading>> readings, std::chrono::milliseconds most) const;

  // Writes those of the blocks that are there into a new segment at `path`; returns how many.
  int64_t export_blocks(const std::vector<BlockName>& names, const std::string& path);
  // Takes over a segment that export_blocks() wrote, by whichever engine; returns how many blocks it holds for this
  // one. The file is moved, or removed where it is no segment of this shape.
  int64_t adopt_segment(const std::string& path);

  StoreStats stats() const;
  // What people should hear, since the last call.
  std::vector<std::string> take_notes();

 private:
  using Clock = std::chrono::steady_clock;
  struct Segment {
    std::string name;
    uint64_t scanned = 0;  // bytes
    bool used = false;     // since its time was last set
  };
  struct Location {
    int32_t segment = kNowhere;
    uint64_t offset = 0;
  };
  struct Entry {
    Location at[2];  // by StoreGroup
  };
  static constexpr int32_t kNowhere = -1, kQueued = -2;
  struct Write {
    BlockName name;
    std::vector<std::byte> payload;
  };
  struct Listed {
    std::string name;
    uint64_t bytes = 0;
    int64_t seconds = 0, nanoseconds = 0;  // of modification
  };

  void run();
  bool work(std::unique_lock<std::mutex>& lock);
  void read_next(std::unique_lock<std::mutex>& lock, Reading& reading);
  std::vector<std::byte> load(const BlockName& name, std::string& problem);
  void write_next(std::unique_lock<std::mutex>& lock);
  SegmentWriter& writer_for(StoreGroup group, uint64_t bytes);
  void give_up_writing(const std::string& why);
  void maintain();
  std::vector<Listed> list_segments() const;
  void look_into(const Listed& file);
  void make_room(uint64_t bytes);
  void mark_used_segments();
  void add(int32_t segment, const RecordPlace& place);
  void forget_segment(int32_t id);
  void forget(const BlockKey& key, StoreGroup group);
  void note(std::string text);
  std::string path_of(const std::string& name) const { return options_.directory + "/" + name; }

  const StoreOptions options_;
  const uint64_t segment_bytes_;

  // Of the thread (and of the constructor before it):
  std::optional<SegmentWriter> writers_[2];
  int32_t writer_segment_[2] = {kNowhere, kNowhere};
  Fd reading_fd_;  // of the segment read last
  int32_t reading_segment_ = kNowhere;
  Clock::time_point next_write_, next_maintenance_, next_sync_, no_writing_until_;

  mutable std::mutex mutex_;  // guards what follows; never held while a disk works
  mutable std::condition_variable work_, done_;
  bool stopping_ = false, urgent_ = false;
  std::unordered_map<BlockKey, Entry, BlockKeyHash> index_;
  std::map<int32_t, Segment> segments_;
  int32_t next_segment_ = 0;
  std::deque<Write> writes_;
  int64_t queued_bytes_ = 0;
  int64_t writing_ = 0;  // blocks that the thread holds
  bool paused_ = false;  // writing failed a moment ago
  std::list<std::shared_ptr<Reading>> readings_;
  StoreStats stats_;
  std::vector<std::string> notes_;

  std::thread thread_;
};

}  // namespace llama4rt
