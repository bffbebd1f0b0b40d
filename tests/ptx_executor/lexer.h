// Words of PTX text. A word is a name (with its dots: "ld.global.v2.f32"), a number or one character.
#pragma once

#include <string>
#include <string_view>

namespace llama4rt::ptx_executor {

class Lexer {
 public:
  Lexer(std::string_view file, std::string_view text, size_t at = 0, int line = 1)
      : file_(file), text_(text), at_(at), line_(line) {}

  // The next word, empty at the end. It stays valid as long as the text.
  std::string_view peek();
  std::string_view next();
  bool accept(std::string_view word);
  void expect(std::string_view word);
  int line() const { return line_; }  // of the last word
  size_t position() const { return at_; }
  // Skips a block whose "{" was read, up to behind its "}".
  void skip_block();
  [[noreturn]] void fail(const std::string& what) const;

 private:
  void skip_space();
  std::string_view file_, text_, peeked_ = {};
  size_t at_;
  int line_;
};

}  // namespace llama4rt::ptx_executor
