// Errors of llama4rt: one exception type with a kind, and the check macros.
// Used by every folder. The bindings map each kind to the Python class of the same name.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace llama4rt {

enum class ErrorKind {
  kEngineFile,  // llama4rt.EngineFileError: the engine file is damaged, hostile or of another version
  kConfig,      // llama4rt.ConfigError (also ValueError): a model config or an engine option is impossible
  kCheckpoint,  // llama4rt.CheckpointError: the source checkpoint is incomplete or malformed
  kRequest,     // llama4rt.RequestError (also ValueError): one request asks for something invalid
  kInternal,    // llama4rt.Llama4RTError: our own mistake, or the operating system refused something
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// Builds a message from parts: error_text("layers.", l, ": expected ", a, ", found ", b).
template <class... Parts>
std::string error_text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

}  // namespace llama4rt

// For what a user can cause; always on.  LLAMA4RT_CHECK(kRequest, n > 0, "n is ", n, "; it must be
// positive").
#define LLAMA4RT_CHECK(kind, condition, ...)                                                     \
  do {                                                                                           \
    if (!(condition)) [[unlikely]]                                                               \
      throw ::llama4rt::Error(::llama4rt::ErrorKind::kind, ::llama4rt::error_text(__VA_ARGS__)); \
  } while (false)

// For our own mistakes: on in debug, sanitizer and CI builds (LLAMA4RT_ASSERTS), free otherwise.
#ifdef LLAMA4RT_ASSERTS
#define LLAMA4RT_ASSERT(condition)                                                              \
  do {                                                                                          \
    if (!(condition)) [[unlikely]]                                                              \
      throw ::llama4rt::Error(                                                                  \
          ::llama4rt::ErrorKind::kInternal,                                                     \
          ::llama4rt::error_text(__FILE__, ":", __LINE__, ": assertion failed: ", #condition)); \
  } while (false)
#else
#define LLAMA4RT_ASSERT(condition) \
  do {                             \
  } while (false)
#endif
