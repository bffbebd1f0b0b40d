#include "runtime/store/kv_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <new>
#include <random>
#include <utility>

#include "base/error.h"

namespace llama4rt {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr int64_t kQueueBytes = int64_t(64) << 20;  // blocks that wait for the disk
constexpr int64_t kAheadBytes = int64_t(64) << 20;  // blocks that were read and not taken
constexpr uint64_t kMaxSegmentBytes = uint64_t(256) << 20;
constexpr seconds kSync(5), kPause(30);
constexpr size_t kMaxNotes = 100;

// A directory holds at least this many segments, so that few blocks go at once.
constexpr uint64_t kSegments = 32;

std::string random_name() {
  std::random_device entropy;
  std::string name;
  for (int i = 0; i < 4; ++i) {
    const uint32_t word = entropy();
    for (int shift = 28; shift >= 0; shift -= 4) name += "0123456789abcdef"[word >> shift & 15];
  }
  return name + ".kvs";
}

}  // namespace

KvStore::KvStore(const StoreOptions& options)
    : options_(options), segment_bytes_(std::min(kMaxSegmentBytes, uint64_t(options.max_bytes) / kSegments)) {
  const int64_t largest = std::max(options.shape.bytes[0], options.shape.bytes[1]);
  LLAMA4RT_CHECK(kConfig, uint64_t(largest) * 2 <= segment_bytes_, "kv_store_size is ", options.max_bytes,
                 " bytes; a block of this model takes ", largest, ", so it must be at least ",
                 largest * 2 * int64_t(kSegments));
  std::error_code error;
  std::filesystem::create_directories(options.directory, error);
  LLAMA4RT_CHECK(kConfig, std::filesystem::is_directory(options.directory), "kv_store ", options.directory,
                 " is no directory and cannot be made one", error ? ": " + error.message() : "");
  LLAMA4RT_CHECK(kConfig, access(options.directory.c_str(), R_OK | W_OK | X_OK) == 0, "kv_store ",
                 options.directory, ": ", std::strerror(errno));
  maintain();
  thread_ = std::thread([this] { run(); });
}

KvStore::~KvStore() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  thread_.join();
}

// --- what callers ask

bool KvStore::has(const BlockKey& key, StoreGroup group, bool or_queued) const {
  const std::lock_guard lock(mutex_);
  const auto it = index_.find(key);
  if (it == index_.end()) return false;
  const int32_t segment = it->second.at[size_t(group)].segment;
  return segment >= 0 || (or_queued && segment == kQueued);
}

void KvStore::touch(std::span<const BlockKey> keys) {
  const std::lock_guard lock(mutex_);
  for (const BlockKey& key : keys) {
    const auto it = index_.find(key);
    if (it == index_.end()) continue;
    const auto segment = segments_.find(it->second.at[size_t(StoreGroup::kGlobal)].segment);
    if (segment != segments_.end()) segment->second.used = true;
  }
}

bool KvStore::has_room() const {
  const std::lock_guard lock(mutex_);
  return queued_bytes_ < kQueueBytes;
}

void KvStore::put(BlockName name, std::vector<std::byte> payload) {
  LLAMA4RT_ASSERT(int64_t(payload.size()) == options_.shape.bytes_of(name.group));
  {
    const std::lock_guard lock(mutex_);
    if (paused_) return;
    Location& at = index_[name.key].at[size_t(name.group)];
    if (at.segment != kNowhere) return;
    at.segment = kQueued;
    queued_bytes_ += int64_t(payload.size());
    writes_.push_back({std::move(name), std::move(payload)});
  }
  work_.notify_one();
}

void KvStore::wait_for_room(milliseconds most) const {
  std::unique_lock lock(mutex_);
  done_.wait_for(lock, most, [&] { return queued_bytes_ < kQueueBytes; });
}

void KvStore::flush() {
  std::unique_lock lock(mutex_);
  urgent_ = true;
  work_.notify_one();
  done_.wait(lock, [&] { return writes_.empty() && writing_ == 0; });
  urgent_ = false;
}

std::shared_ptr<KvStore::Reading> KvStore::read(std::vector<BlockName> wanted) {
  auto reading = std::make_shared<Reading>();
  reading->wanted = std::move(wanted);
  {
    const std::lock_guard lock(mutex_);
    readings_.push_back(reading);
  }
  work_.notify_one();
  return reading;
}

void KvStore::cancel(Reading& reading) {
  const std::lock_guard lock(mutex_);
  reading.cancelled = true;
  reading.ready.clear();
  readings_.remove_if([&](const auto& other) { return other.get() == &reading; });
}

std::optional<std::vector<std::byte>> KvStore::take(Reading& reading) {
  std::optional<std::vector<std::byte>> out;
  {
    const std::lock_guard lock(mutex_);
    if (reading.ready.empty()) return out;
    out = std::move(reading.ready.front());
    reading.ready.pop_front();
  }
  work_.notify_one();  // there may be room to read on
  return out;
}

bool KvStore::ended(const Reading& reading) const {
  const std::lock_guard lock(mutex_);
  return reading.ready.empty() && (reading.failed || reading.next == reading.wanted.size());
}

void KvStore::wait_for(std::span<const std::shared_ptr<Reading>> readings, milliseconds most) const {
  std::unique_lock lock(mutex_);
  done_.wait_for(lock, most, [&] {
    return std::any_of(readings.begin(), readings.end(), [](const auto& r) {
      return !r->ready.empty() || r->failed || r->next == r->wanted.size();
    });
  });
}

StoreStats KvStore::stats() const {
  const std::lock_guard lock(mutex_);
  StoreStats stats = stats_;
  stats.pending = int64_t(writes_.size()) + writing_;
  return stats;
}

std::vector<std::string> KvStore::take_notes() {
  const std::lock_guard lock(mutex_);
  return std::exchange(notes_, {});
}

void KvStore::note(std::string text) {
  const std::lock_guard lock(mutex_);
  if (notes_.size() < kMaxNotes) notes_.push_back(std::move(text));
}

// --- the thread

void KvStore::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    try {
      if (work(lock)) continue;
    } catch (const std::exception& e) {  // no memory, most likely: what was under way is lost, nothing else
      if (!lock.owns_lock()) lock.lock();
      writing_ = 0;
      if (notes_.size() < kMaxNotes) notes_.push_back(e.what());
      continue;
    }
    if (stopping_ && writes_.empty()) break;
    const Clock::time_point until =
        writes_.empty() ? next_maintenance_ : std::min(next_maintenance_, next_write_);
    work_.wait_until(lock, until);
  }
  lock.unlock();
  for (std::optional<SegmentWriter>& writer : writers_) {
    try {
      if (writer) writer->seal();
    } catch (const std::exception& e) {
      note(e.what());
    }
  }
  mark_used_segments();
}

// Does one thing, if there is one to do.
bool KvStore::work(std::unique_lock<std::mutex>& lock) {
  for (auto it = readings_.begin(); it != readings_.end();) {
    Reading& reading = **it;
    if (reading.failed || reading.next == reading.wanted.size()) {
      it = readings_.erase(it);
      continue;
    }
    const int64_t ahead =
        int64_t(reading.ready.size()) * int64_t(options_.shape.bytes[0] + options_.shape.bytes[1]);
    if (ahead < kAheadBytes) {
      const std::shared_ptr<Reading> kept = *it;
      read_next(lock, *kept);
      return true;
    }
    ++it;
  }
  const Clock::time_point now = Clock::now();
  // Half of the time at most: the disk, and the memory it is fed from, are not the store's alone.
  if (!writes_.empty() && (stopping_ || urgent_ || now >= next_write_)) {
    write_next(lock);
    next_write_ = Clock::now() + (Clock::now() - now);
    return true;
  }
  if (now < next_maintenance_ || stopping_) return false;
  lock.unlock();
  maintain();
  lock.lock();
  return true;
}

void KvStore::read_next(std::unique_lock<std::mutex>& lock, Reading& reading) {
  const BlockName& name = reading.wanted[reading.next];
  lock.unlock();
  std::string problem;
  std::vector<std::byte> payload;
  try {
    payload = load(name, problem);
  } catch (const std::exception& e) {  // no memory: the tokens are computed again
    note(e.what());
  }
  lock.lock();
  if (reading.cancelled) return;
  if (payload.empty()) {
    reading.failed = true;
  } else {
    ++stats_.read_blocks;
    stats_.read_bytes += int64_t(payload.size());
    reading.ready.push_back(std::move(payload));
    ++reading.next;
  }
  done_.notify_all();
}

// Empty when the block cannot be had; then nobody looks for it there again.
std::vector<std::byte> KvStore::load(const BlockName& name, std::string& problem) {
  RecordPlace place{.key = name.key, .group = name.group, .offset = 0, .bytes = 0};
  int32_t id = kNowhere;
  std::string path;
  {
    const std::lock_guard lock(mutex_);
    const auto it = index_.find(name.key);
    if (it == index_.end()) return {};
    const Location at = it->second.at[size_t(name.group)];
    const auto segment = segments_.find(at.segment);
    if (segment == segments_.end()) return {};
    id = at.segment;
    place.offset = at.offset;
    path = path_of(segment->second.name);
    segment->second.used = true;
  }
  if (reading_segment_ != id) {
    reading_fd_ = Fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    reading_segment_ = reading_fd_ ? id : kNowhere;
    if (!reading_fd_) {  // another process made room
      const bool removed = errno == ENOENT;
      if (!removed) note(error_text(path, ": cannot be opened: ", std::strerror(errno)));
      forget_segment(id);
      return {};
    }
  }
  std::vector<std::byte> payload = read_record(reading_fd_.get(), place, name, options_.shape, problem);
  if (!payload.empty()) return payload;
  note(error_text(path, ": the block at byte ", place.offset, " is not used: ", problem,
                  "; its tokens are computed again"));
  forget(name.key, name.group);
  const std::lock_guard lock(mutex_);
  ++stats_.damaged;
  return {};
}

void KvStore::write_next(std::unique_lock<std::mutex>& lock) {
  Write write = std::move(writes_.front());
  writes_.pop_front();
  writing_ = 1;
  lock.unlock();
  bool written = false;
  const size_t group = size_t(write.name.group);
  try {
    if (Clock::now() >= no_writing_until_) {
      SegmentWriter& writer = writer_for(write.name.group, record_bytes(write.name, write.payload.size()));
      const RecordPlace place = writer.append(write.name, write.payload);
      add(writer_segment_[group], place);
      written = true;
      if (Clock::now() >= next_sync_) {
        next_sync_ = Clock::now() + kSync;
        writer.sync();
      }
    }
  } catch (const std::exception& e) {
    give_up_writing(e.what());
  }
  lock.lock();
  writing_ = 0;
  queued_bytes_ -= int64_t(write.payload.size());
  if (written) {
    ++stats_.written_blocks;
    stats_.written_bytes += int64_t(write.payload.size());
  } else if (const auto it = index_.find(write.name.key);
             it != index_.end() && it->second.at[group].segment == kQueued) {
    it->second.at[group].segment = kNowhere;
  }
  done_.notify_all();
}

// The segment that the block's record of so many bytes goes to.
SegmentWriter& KvStore::writer_for(StoreGroup group, uint64_t bytes) {
  std::optional<SegmentWriter>& writer = writers_[size_t(group)];
  if (writer && writer->bytes() + bytes > segment_bytes_) {
    SegmentWriter full = std::move(*writer);
    writer.reset();
    full.seal();
  }
  if (!writer) {
    make_room(segment_bytes_);
    const std::string name = random_name();
    writer.emplace(path_of(name), options_.shape);
    const std::lock_guard lock(mutex_);
    writer_segment_[size_t(group)] = next_segment_;
    segments_[next_segment_++] = {.name = name, .scanned = writer->bytes(), .used = false};
  }
  return *writer;
}

// A full disk, most likely. What was written stays; for a while nothing is tried.
void KvStore::give_up_writing(const std::string& why) {
  for (std::optional<SegmentWriter>& writer : writers_) writer.reset();
  no_writing_until_ = Clock::now() + kPause;
  note(error_text(why, "; no blocks are kept for ", kPause.count(), " seconds"));
  const std::lock_guard lock(mutex_);
  paused_ = true;
  for (const Write& write : writes_) {
    queued_bytes_ -= int64_t(write.payload.size());
    Location& at = index_[write.name.key].at[size_t(write.name.group)];
    if (at.segment == kQueued) at.segment = kNowhere;
  }
  writes_.clear();
}

}  // namespace llama4rt
