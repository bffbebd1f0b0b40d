// SHA-256 against the examples that its standard publishes.
#include "base/sha256.h"

#include <string>

#include "test.h"

namespace llama4rt {
namespace {

std::string hex(const Sha256Digest& digest) {
  std::string out;
  for (const uint8_t byte : digest)
    for (const int digit : {byte >> 4, byte & 15}) out += "0123456789abcdef"[digit];
  return out;
}

std::string sha256(const std::string& text, size_t piece) {
  Sha256 hash;
  for (size_t i = 0; i < text.size(); i += piece)
    hash.update(text.data() + i, std::min(piece, text.size() - i));
  return hex(hash.digest());
}

TEST(gives_the_published_digests_in_pieces_of_any_size) {
  for (const size_t piece : {1, 3, 63, 64, 65, 1000}) {
    SCOPE("pieces of ", piece);
    CHECK_EQ(sha256("", piece),
             std::string("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
    CHECK_EQ(sha256("abc", piece),
             std::string("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
    CHECK_EQ(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", piece),
             std::string("248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"));
    CHECK_EQ(sha256(std::string(100000, 'a') + std::string(900000, 'a'), piece * 97),
             std::string("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"));
  }
}

}  // namespace
}  // namespace llama4rt
