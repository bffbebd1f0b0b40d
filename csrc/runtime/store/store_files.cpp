// Blocks that leave a store in a file, and come into another one.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <random>

#include "base/error.h"
#include "runtime/store/kv_store.h"

namespace llama4rt {

int64_t KvStore::export_blocks(const std::vector<BlockName>& names, const std::string& path) {
  SegmentWriter writer(path, options_.shape);
  int64_t count = 0;
  for (const BlockName& name : names) {
    RecordPlace place{.key = name.key, .group = name.group, .offset = 0, .bytes = 0};
    std::string file;
    {
      const std::lock_guard lock(mutex_);
      const auto it = index_.find(name.key);
      if (it == index_.end()) continue;
      const Location at = it->second.at[size_t(name.group)];
      const auto segment = segments_.find(at.segment);
      if (segment == segments_.end()) continue;
      place.offset = at.offset;
      file = path_of(segment->second.name);
    }
    const Fd fd(open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!fd) continue;
    std::string problem;
    const std::vector<std::byte> payload = read_record(fd.get(), place, name, options_.shape, problem);
    if (payload.empty()) {
      note(error_text(file, ": the block at byte ", place.offset, " is not exported: ", problem));
      continue;
    }
    writer.append(name, payload);
    ++count;
  }
  writer.sync();
  return count;
}

int64_t KvStore::adopt_segment(const std::string& path) {
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  LLAMA4RT_CHECK(kInternal, fd, path, ": cannot be opened: ", std::strerror(errno));
  int64_t count = 0;
  if (is_segment_of(fd.get(), options_.shape)) {
    std::random_device entropy;
    const std::string name = error_text("imported-", entropy(), "-", entropy(), ".kvs");
    const uint64_t end = scan_segment(fd.get(), options_.shape, 0, [&](const RecordPlace&) { ++count; });
    LLAMA4RT_CHECK(kInternal, rename(path.c_str(), path_of(name).c_str()) == 0, path,
                   ": cannot be moved into the store: ", std::strerror(errno));
    int32_t id = kNowhere;
    {
      const std::lock_guard lock(mutex_);
      id = next_segment_++;
      segments_[id] = {.name = name, .scanned = end, .used = true};
      stats_.bytes += int64_t(end);
    }
    scan_segment(fd.get(), options_.shape, 0, [&](const RecordPlace& place) { add(id, place); });
  } else {
    unlink(path.c_str());
  }
  return count;
}

}  // namespace llama4rt
