// OutputFile: a file that appears under its final name complete or not at all. Bytes go to `<path>.tmp`
// beside it, which has its full size from the start (a full disk is an early error) and is locked against a
// second writer; publish() flushes and renames it, the destructor removes it. A killed process leaves an
// unlocked temporary, which the next writer takes over. Errors are kInternal and name the path.
#pragma once

#include <cstdint>
#include <string>

namespace llama4rt {

class OutputFile {
 public:
  // Reserves `size` bytes, all zero.
  OutputFile(const std::string& path, uint64_t size);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  // Any thread, for ranges that do not overlap.
  void write_at(uint64_t offset, const void* data, uint64_t bytes) const;
  void read_at(uint64_t offset, void* data, uint64_t bytes) const;
  // Makes the file at least this long.
  void reserve(uint64_t size) const;
  void publish();

 private:
  void open_and_lock();
  void discard() noexcept;

  std::string path_;
  std::string temporary_;
  int fd_ = -1;
};

}  // namespace llama4rt
