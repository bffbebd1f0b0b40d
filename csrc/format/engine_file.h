// EngineFile: an engine file opened, validated and mapped. Everything the header says is checked before a
// byte of payload is read, so a view handed out here always lies inside the file, whatever the header claims.
// Payload bytes are checked only by verify(). The format is described in docs/engine-file.md; model/weights.h
// checks that the tensors are the ones the model needs.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/json.h"
#include "base/mapped_file.h"
#include "base/tensor.h"
#include "format/model_config.h"
#include "format/safetensors.h"
#include "format/weight_source.h"
#include "weights/weight.h"
#include "weights/weight_sides.h"

namespace llama4rt {

namespace engine_format {
inline constexpr std::string_view kName = "llama4rt engine";
inline constexpr int kVersion = 1;
inline constexpr uint64_t kDataAlignment = 4096;  // of the first payload byte
inline constexpr uint64_t kTensorAlignment = 64;  // of every tensor whose size is a multiple of it
inline constexpr uint64_t kMaxHeaderBytes = uint64_t(16) << 20;
inline constexpr std::string_view kFilePrefix = "files/";
inline constexpr std::string_view kNoChecksum = "0000000000000000";

// XXH64 of the header's JSON text (padding included) with the digits of header_checksum taken as zeros.
// `digits` is the offset of the 16 digits inside `header`.
uint64_t header_checksum(std::span<const std::byte> header, size_t digits);
std::string hex16(uint64_t value);  // 16 lower-case digits
// True for names that may follow "files/": one path component, printable, at most 200 bytes.
bool valid_file_name(std::string_view name);
// "cpu" -> kCpu16, "cuda" -> kCudaTile; one file serves one layout. Empty for a target that does not exist.
std::optional<Layout> layout_of_target(std::string_view target);
std::string_view target_of_layout(Layout layout);
// Shapes under which the parts of a packed weight are stored; E is left out for a single matrix.
std::vector<int64_t> packed_shape(const Weight& w);
std::vector<int64_t> side_shape(const Weight& w, Side side);
}  // namespace engine_format

// One packed weight as the header describes it.
struct WeightInfo {
  Weight view;           // points into the mapping
  double rms_error = 0;  // relative to the weights' own RMS
  double max_error = 0;
};

class EngineFile final : public WeightSource {
 public:
  // Throws kEngineFile (kConfig for a config that is well-formed but impossible). While it is open, EngineWriter
  // refuses to write a file of this name.
  explicit EngineFile(const std::string& path);

  const std::string& path() const override { return file_.path(); }
  size_t size() const { return file_.size(); }
  // Everything before the payload. It has a checksum of every tensor, so files of equal headers are equal.
  std::span<const std::byte> header() const { return file_.bytes().first(header_.data_offset()); }
  const ModelConfig& config() const override { return config_; }
  Layout layout() const override { return layout_; }  // of every packed weight
  // Throws kEngineFile, naming the command that builds the other file, unless the packed weights are in
  // `layout`. device: the device that asks, for the message.
  void require_layout(Layout layout, const std::string& device) const;
  const std::vector<std::pair<std::string, std::string>>& metadata() const { return header_.metadata(); }
  const std::string* find_metadata(std::string_view key) const { return header_.find_metadata(key); }

  const std::vector<StoredTensor>& tensors() const { return header_.tensors(); }  // in file order
  const StoredTensor& stored(std::string_view name) const;
  std::span<const std::byte> bytes(const StoredTensor& tensor) const {
    return file_.bytes().subspan(tensor.offset, tensor.bytes);
  }

  // All of these throw kEngineFile, naming the file and `name`, when there is no such thing in the file.
  bool has(std::string_view name) const override { return header_.find(name) != nullptr; }
  // A packed weight or expert stack; a plain BF16 [N, K] tensor (the embedding) is a row-major Weight.
  Weight weight(std::string_view name) const override;
  // A plain tensor of at most four dimensions. The view is read-only, although Tensor's pointer is not.
  Tensor tensor(std::string_view name) const override;
  const std::map<std::string, WeightInfo, std::less<>>& weights() const { return weights_; }

  const std::vector<std::string>& file_names() const { return file_names_; }
  std::span<const std::byte> file(std::string_view name) const;

  // Names of the tensors whose bytes do not match their checksum, in file order. num_threads 0: all CPUs.
  std::vector<std::string> verify(int num_threads) const;

  void advise(Advice advice) const { file_.advise(0, file_.size(), advice); }
  // Throws kEngineFile when the file was written to since it was opened.
  void check_unchanged() const { file_.check_unchanged(); }

 private:
  [[noreturn]] void fail(const std::string& problem) const;
  const std::string& required_metadata(std::string_view key) const;
  void check_format();
  void check_header_checksum() const;
  void check_alignment() const;
  void read_checksums();
  void read_weights();
  WeightInfo read_weight(const std::string& name, const json::Value& descriptor) const;
  const StoredTensor& part(const std::string& name, std::string_view role, std::string_view dtype,
                           const std::vector<int64_t>& shape) const;
  void read_files();

  MappedFile file_;
  SafetensorsHeader header_;
  ModelConfig config_;
  Layout layout_ = Layout::kCpu16;
  std::map<std::string, WeightInfo, std::less<>> weights_;
  std::unordered_map<std::string_view, uint64_t> checksums_;  // by stored tensor; keys point into header_
  std::vector<std::string> file_names_;
};

}  // namespace llama4rt
