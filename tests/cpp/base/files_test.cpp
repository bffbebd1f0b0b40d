#include <sys/stat.h>

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
