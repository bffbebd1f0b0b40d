// OutputFile: a file that appears under its final name complete or not at all. Bytes go to `<path>.tmp`
// beside it, which has its full size from the start (a full disk is an early error) and is locked against a
// second writer; publish() flushes and renames it, the destructor removes it. The temporary is always a file
// that this writer created: no link is followed, nothing that exists is written to. What a killed process left
// behind (a regular file, unlocked, ours, of one name) is removed first, or adopted where that is asked for;
// anything else of that name is an error.
// A file under the final name that somebody has open with MappedFile::share_lock() is not replaced: its owner
// would serve a file that nobody can find any more. Errors are kInternal and name the path.
#pragma once

#include <cstdint>
#include <string>

namespace llama4rt {

class OutputFile {
 public:
  // Reserves `size` bytes, all zero. adopt: takes over the bytes that a killed process, or keep_temporary(),
  // left behind, where they are exactly as many; adopted() says whether.
  OutputFile(const std::string& path, uint64_t size, bool adopt = false);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  // Any thread, for ranges that do not overlap.
  void write_at(uint64_t offset, const void* data, uint64_t bytes) const;
  void read_at(uint64_t offset, void* data, uint64_t bytes) const;
  // Makes the file at least this long.
  void reserve(uint64_t size) const;
  // Makes bytes zero again, of an adopted file.
  void clear(uint64_t offset, uint64_t bytes) const;
  void publish();

  bool adopted() const { return adopted_; }
  // The destructor leaves the temporary behind, for a later writer to adopt.
  void keep_temporary() { kept_ = true; }

 private:
  void create_and_lock(uint64_t adopted_size);
  void take_leftover(uint64_t adopted_size);
  void check_not_in_use() const;
  bool is_named() const;
  void discard() noexcept;

  std::string path_;
  std::string temporary_;
  int fd_ = -1;
  bool adopted_ = false;
  bool kept_ = false;
};

}  // namespace llama4rt
