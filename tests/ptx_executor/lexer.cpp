#include "ptx_executor/lexer.h"

#include <cctype>

#include "base/error.h"

namespace llama4rt::ptx_executor {
namespace {

bool in_name(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || c == '%' || c == '.';
}

}  // namespace

void Lexer::fail(const std::string& what) const {
  throw Error(ErrorKind::kInternal, error_text(file_, ":", line_, ": ", what));
}

void Lexer::skip_space() {
  while (at_ < text_.size()) {
    const char c = text_[at_];
    if (c == '\n') ++line_;
    if (std::isspace(static_cast<unsigned char>(c)) != 0) {
      ++at_;
    } else if (text_.substr(at_, 2) == "//") {
      at_ = text_.find('\n', at_);
      if (at_ == std::string_view::npos) at_ = text_.size();
    } else if (text_.substr(at_, 2) == "/*") {
      const size_t end = text_.find("*/", at_);
      if (end == std::string_view::npos) fail("a comment without end");
      for (size_t i = at_; i < end; ++i) line_ += text_[i] == '\n';
      at_ = end + 2;
    } else {
      return;
    }
  }
}

std::string_view Lexer::peek() {
  if (!peeked_.empty()) return peeked_;
  skip_space();
  if (at_ >= text_.size()) return {};
  size_t end = at_;
  if (text_[at_] == '"') {
    end = text_.find('"', at_ + 1);
    if (end == std::string_view::npos) fail("a string without end");
    ++end;
  } else if (text_.substr(at_, 2) == "::") {
    fail("'::' at the start of a word");
  } else {
    // A scope within an opcode ("shared::cluster") belongs to its word; a label's colon does not.
    while (end < text_.size() && (in_name(text_[end]) || text_.substr(end, 2) == "::"))
      end += text_[end] == ':' ? 2 : 1;
    if (end == at_) ++end;
  }
  peeked_ = text_.substr(at_, end - at_);
  return peeked_;
}

std::string_view Lexer::next() {
  const std::string_view word = peek();
  at_ += word.size();
  peeked_ = {};
  return word;
}

bool Lexer::accept(std::string_view word) {
  if (peek() != word) return false;
  next();
  return true;
}

void Lexer::expect(std::string_view word) {
  if (!accept(word)) fail(error_text("expected '", word, "', found '", peek(), "'"));
}

void Lexer::skip_block() {
  for (int depth = 1; depth > 0;) {
    const std::string_view word = next();
    if (word.empty()) fail("a block without end");
    depth += word == "{" ? 1 : word == "}" ? -1 : 0;
  }
}

}  // namespace llama4rt::ptx_executor
