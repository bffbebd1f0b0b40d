// What a store's directory holds: segments that other processes wrote, which are read in, and those that have to go.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <tuple>

#include "base/error.h"
#include "runtime/store/kv_store.h"

namespace llama4rt {
namespace {

constexpr std::chrono::seconds kMaintenance(2);

bool ends_with(const std::string& text, std::string_view end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

// Looks at what other processes did, and says what was used.
void KvStore::maintain() {
  next_maintenance_ = Clock::now() + kMaintenance;
  if (Clock::now() >= no_writing_until_) {
    const std::lock_guard lock(mutex_);
    paused_ = false;
  }
  mark_used_segments();
  std::vector<Listed> files = list_segments();
  std::vector<int32_t> gone;
  {
    const std::lock_guard lock(mutex_);
    stats_.bytes = 0;
    for (const Listed& file : files) stats_.bytes += int64_t(file.bytes);
    for (const auto& [id, segment] : segments_)
      if (std::none_of(files.begin(), files.end(),
                       [&](const Listed& file) { return file.name == segment.name; }))
        gone.push_back(id);
  }
  for (const int32_t id : gone) forget_segment(id);
  for (const Listed& file : files) look_into(file);
}

std::vector<KvStore::Listed> KvStore::list_segments() const {
  std::vector<Listed> files;
  std::error_code error;
  for (std::filesystem::directory_iterator it(options_.directory, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    struct stat status;
    if (!ends_with(name, ".kvs") || lstat(it->path().c_str(), &status) != 0 || !S_ISREG(status.st_mode))
      continue;
    files.push_back(
        {name, uint64_t(status.st_size), int64_t(status.st_mtim.tv_sec), int64_t(status.st_mtim.tv_nsec)});
  }
  return files;
}

// The records that a segment of this model has and that are not known yet.
void KvStore::look_into(const Listed& file) {
  int32_t id = kNowhere;
  uint64_t scanned = 0;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [known, segment] : segments_) {
      if (segment.name != file.name) continue;
      if (known == writer_segment_[0] || known == writer_segment_[1] || segment.scanned >= file.bytes) return;
      id = known;
      scanned = segment.scanned;
    }
  }
  const std::string path = path_of(file.name);
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return;
  const bool ours = scanned > 0 || is_segment_of(fd.get(), options_.shape);
  if (id == kNowhere) {
    const std::lock_guard lock(mutex_);
    id = next_segment_++;
    segments_[id] = {.name = file.name, .scanned = ours ? kSegmentHeaderBytes : UINT64_MAX, .used = false};
  }
  if (!ours) return;  // another model's, or another version's: it only takes room
  uint64_t end = file.bytes;
  if (const auto places = scanned == 0 ? read_segment_index(path, file.bytes) : std::nullopt)
    for (const RecordPlace& place : *places) add(id, place);
  else
    end = scan_segment(fd.get(), options_.shape, scanned, [&](const RecordPlace& place) { add(id, place); });
  const std::lock_guard lock(mutex_);
  if (const auto it = segments_.find(id); it != segments_.end()) it->second.scanned = end;
}

// Removes the longest unused segments until so many bytes more are within the limit. Nobody else does so meanwhile.
void KvStore::make_room(uint64_t bytes) {
  const Fd lock_file(open(path_of("lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock_file || flock(lock_file.get(), LOCK_EX) != 0)
    throw Error(ErrorKind::kInternal,
                error_text(path_of("lock"), ": cannot be locked: ", std::strerror(errno)));
  mark_used_segments();
  std::vector<Listed> files = list_segments();
  std::sort(files.begin(), files.end(), [](const Listed& a, const Listed& b) {
    return std::tie(a.seconds, a.nanoseconds, a.name) < std::tie(b.seconds, b.nanoseconds, b.name);
  });
  uint64_t total = bytes;
  for (const Listed& file : files) total += file.bytes;
  for (const Listed& file : files) {
    if (total <= uint64_t(options_.max_bytes)) return;
    const std::string path = path_of(file.name);
    const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!fd || flock(fd.get(), LOCK_EX | LOCK_NB) != 0) continue;  // it is being written
    if (unlink(path.c_str()) != 0) continue;
    unlink((path + ".idx").c_str());
    total -= file.bytes;
    int32_t id = kNowhere;
    {
      const std::lock_guard lock(mutex_);
      for (const auto& [known, segment] : segments_)
        if (segment.name == file.name) id = known;
    }
    if (id != kNowhere) forget_segment(id);
  }
  LLAMA4RT_CHECK(
      kInternal, total <= uint64_t(options_.max_bytes), options_.directory, ": other processes write ",
      "into all of its segments, so there is no room within kv_store_size (", options_.max_bytes, ")");
}

void KvStore::mark_used_segments() {
  std::vector<std::string> used;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [id, segment] : segments_)
      if (std::exchange(segment.used, false)) used.push_back(segment.name);
  }
  for (const std::string& name : used)
    utimensat(AT_FDCWD, path_of(name).c_str(), nullptr, AT_SYMLINK_NOFOLLOW);
}

void KvStore::add(int32_t segment, const RecordPlace& place) {
  const std::lock_guard lock(mutex_);
  Location& at = index_[place.key].at[size_t(place.group)];
  if (at.segment < 0) ++stats_.blocks;
  at = {segment, place.offset};
}

void KvStore::forget(const BlockKey& key, StoreGroup group) {
  const std::lock_guard lock(mutex_);
  const auto it = index_.find(key);
  if (it == index_.end() || it->second.at[size_t(group)].segment < 0) return;
  it->second.at[size_t(group)] = {};
  --stats_.blocks;
}

void KvStore::forget_segment(int32_t id) {
  const std::lock_guard lock(mutex_);
  if (reading_segment_ == id) reading_segment_ = kNowhere;
  segments_.erase(id);
  for (auto it = index_.begin(); it != index_.end();) {
    for (Location& at : it->second.at) {
      if (at.segment != id) continue;
      at = {};
      --stats_.blocks;
    }
    const bool empty = it->second.at[0].segment == kNowhere && it->second.at[1].segment == kNowhere;
    it = empty ? index_.erase(it) : std::next(it);
  }
}

}  // namespace llama4rt
