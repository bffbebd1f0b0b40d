#include <sys/stat.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>

#include "base/mapped_file.h"
#include "base/output_file.h"
#include "base/temp_dir.h"
#include "test.h"

namespace llama4rt::test {

TEST(a_mapping_shows_the_file) {
  const TempDir dir;
  write_file(dir / "f", "hello");
  const MappedFile file(dir / "f", ErrorKind::kCheckpoint);
  CHECK_EQ(file.size(), size_t(5));
  CHECK_EQ(std::memcmp(file.bytes().data(), "hello", 5), 0);
  file.advise(0, 5, Advice::kDontNeed);
  file.advise(3, 100, Advice::kWillNeed);
  file.advise(100, 1, Advice::kRandom);
  CHECK_EQ(std::memcmp(file.bytes().data(), "hello", 5), 0);
  file.check_unchanged();
  write_file(dir / "f", "hello, more");
  CHECK_THROWS(kCheckpoint, file.check_unchanged());
}

TEST(a_file_written_to_at_the_same_size_is_noticed) {
  const TempDir dir;
  write_file(dir / "f", "hello");
  const MappedFile file(dir / "f", ErrorKind::kEngineFile);
  const auto opened = std::filesystem::last_write_time(dir / "f");
  write_file(dir / "f", "jello");
  std::filesystem::last_write_time(dir / "f", opened + std::chrono::nanoseconds(1));
  CHECK_THROWS(kEngineFile, file.check_unchanged());
  file.check_size();
  std::filesystem::last_write_time(dir / "f", opened);
  file.check_unchanged();
  write_file(dir / "other", "more");
  std::filesystem::rename(dir / "other", dir / "f");  // the way to replace one: who has it open keeps it
  file.check_unchanged();
}

TEST(only_regular_files_are_mapped) {
  const TempDir dir;
  CHECK_THROWS(kCheckpoint, MappedFile(dir / "absent", ErrorKind::kCheckpoint));
  CHECK_THROWS(kCheckpoint, MappedFile(dir / "", ErrorKind::kCheckpoint));
  CHECK_THROWS(kCheckpoint, MappedFile("/dev/null", ErrorKind::kCheckpoint));
  write_file(dir / "empty", "");
  CHECK_THROWS(kCheckpoint, MappedFile(dir / "empty", ErrorKind::kCheckpoint));
  CHECK_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);
  CHECK_THROWS(kCheckpoint, MappedFile(dir / "pipe", ErrorKind::kCheckpoint));  // and does not wait
}

TEST(an_output_appears_complete_or_not_at_all) {
  const TempDir dir;
  const std::string path = dir / "out", temporary = path + ".tmp";
  {
    const OutputFile file(path, 10);
    CHECK(std::filesystem::exists(temporary));
    CHECK_EQ(std::filesystem::file_size(temporary), 10u);
  }
  CHECK(!std::filesystem::exists(temporary));
  CHECK(!std::filesystem::exists(path));

  write_file(temporary, "what a killed build left behind, longer than the new file");
  OutputFile file(path, 10);
  file.write_at(3, "abc", 3);
  CHECK_THROWS(kInternal, OutputFile(path, 10));  // a second writer
  CHECK(!std::filesystem::exists(path));
  file.publish();
  CHECK(!std::filesystem::exists(temporary));
  CHECK_EQ(read_file(path), std::string("\0\0\0abc\0\0\0\0", 10));
  const OutputFile next(path, 1);  // the name is free again
  CHECK_EQ(read_file(path).size(), size_t(10));
}

TEST(a_temporary_that_no_build_left_is_never_written_to) {
  const TempDir dir;
  const std::string path = dir / "out", temporary = path + ".tmp";
  write_file(dir / "victim", "precious");
  std::filesystem::create_hard_link(dir / "victim", temporary);
  CHECK_THROWS(kInternal, OutputFile(path, 10));
  CHECK(std::filesystem::exists(temporary));
  std::filesystem::remove(temporary);
  std::filesystem::create_symlink(dir / "victim", temporary);
  CHECK_THROWS(kInternal, OutputFile(path, 10));
  std::filesystem::remove(temporary);
  std::filesystem::create_directory(temporary);
  CHECK_THROWS(kInternal, OutputFile(path, 10));
  std::filesystem::remove(temporary);
  CHECK_EQ(mkfifo(temporary.c_str(), 0600), 0);
  CHECK_THROWS(kInternal, OutputFile(path, 10));
  std::filesystem::remove(temporary);
  CHECK_EQ(read_file(dir / "victim"), std::string("precious"));

  // A leftover is removed, not written to: whoever reads it goes on reading what was there.
  write_file(temporary, "leftover");
  const MappedFile reader(temporary, ErrorKind::kCheckpoint);
  OutputFile file(path, 10);
  file.write_at(0, "0123456789", 10);
  CHECK_EQ(std::memcmp(reader.bytes().data(), "leftover", 8), 0);
  // One that is taken away while it is written is not published, and what took its place is not touched.
  std::filesystem::remove(temporary);
  write_file(temporary, "somebody else's");
  CHECK_THROWS(kInternal, file.publish());
  CHECK(!std::filesystem::exists(path));
  CHECK_EQ(read_file(temporary), std::string("somebody else's"));
}

TEST(a_file_in_use_is_not_replaced) {
  const TempDir dir;
  const std::string path = dir / "out";
  write_file(path, "in use");
  {
    const MappedFile reader(path, ErrorKind::kEngineFile);
    OutputFile early(path, 4);  // it shares no lock yet
    reader.share_lock();
    CHECK_THROWS(kInternal, early.publish());
    CHECK_THROWS(kInternal, OutputFile(path, 4));
    CHECK_EQ(read_file(path), std::string("in use"));
  }
  CHECK(!std::filesystem::exists(path + ".tmp"));
  OutputFile(path, 4).publish();
  CHECK_EQ(read_file(path), std::string(4, '\0'));
  const MappedFile again(path, ErrorKind::kEngineFile);
  again.share_lock();
}

TEST(outputs_that_cannot_be) {
  const TempDir dir;
  CHECK_THROWS(kInternal, OutputFile(dir / "no/such/directory", 1));
  CHECK_THROWS(kInternal, OutputFile(dir / "huge", uint64_t(1) << 62));
  CHECK(!std::filesystem::exists(dir / "huge.tmp"));
  std::filesystem::create_symlink(dir / "target", dir / "link.tmp");
  CHECK_THROWS(kInternal, OutputFile(dir / "link", 1));
  CHECK(!std::filesystem::exists(dir / "target"));
}

}  // namespace llama4rt::test
