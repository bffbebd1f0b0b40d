#include "format/engine_file.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>
#include <set>

#include "base/thread_pool.h"
#include "base/xxhash.h"
#include "weights/layout.h"

namespace llama4rt {
namespace engine_format {

uint64_t header_checksum(std::span<const std::byte> header, size_t digits) {
  Xxh64 hash;
  hash.update(header.data(), digits);
  hash.update(kNoChecksum.data(), kNoChecksum.size());
  const auto rest = header.subspan(digits + kNoChecksum.size());
  hash.update(rest.data(), rest.size());
  return hash.digest();
}

std::string hex16(uint64_t value) {
  std::string text(16, '0');
  for (size_t i = 16; i-- > 0; value >>= 4) text[i] = "0123456789abcdef"[value & 15];
  return text;
}

bool valid_file_name(std::string_view name) {
  constexpr size_t kMaxFileName = 200;
  if (name.empty() || name.size() > kMaxFileName || name == "." || name == "..") return false;
  return std::none_of(name.begin(), name.end(), [](char c) {
    return c == '/' || c == '\\' || static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  });
}

std::optional<Layout> layout_of_target(std::string_view target) {
  if (target == "cpu") return Layout::kCpu16;
  if (target == "cuda") return Layout::kCudaTile;
  return std::nullopt;
}

std::string_view target_of_layout(Layout layout) { return layout == Layout::kCudaTile ? "cuda" : "cpu"; }

std::vector<int64_t> packed_shape(const Weight& w) {
  std::vector<int64_t> shape;
  if (w.num_experts > 1) shape.push_back(w.num_experts);
  shape.push_back(cpu16::num_blocks(w.n));
  if (w.layout == Layout::kCudaTile) {
    shape.push_back(cuda_tile::tiles_per_block(w.kind, w.k));
    shape.push_back(w.quantized() ? cuda_tile::kTileBytes : cuda_tile::kTileBytes / 2);
    return shape;
  }
  shape.push_back(cpu16::lines_per_block(w.kind, w.k));
  if (!w.quantized()) {
    shape.push_back(cpu16::kRows);
    shape.push_back(cpu16::values_per_word(w.kind));
  } else {
    shape.push_back(cpu16::kLineBytes);
  }
  return shape;
}

std::vector<int64_t> side_shape(const Weight& w, Side side) {
  std::vector<int64_t> shape;
  if (w.num_experts > 1) shape.push_back(w.num_experts);
  shape.push_back(cpu16::num_blocks(w.n));
  shape.push_back(side_columns(w, side));
  shape.push_back(cpu16::kRows);
  return shape;
}

}  // namespace engine_format

namespace {

using engine_format::kFilePrefix;

constexpr SafetensorsLimits kLimits = {
    .max_header_bytes = engine_format::kMaxHeaderBytes, .max_tensors = 65'536, .max_values = size_t(1) << 20};
// Bounds that keep every product of layout.h (at most E * N * K * 4 bytes) inside int64.
constexpr int64_t kMaxExperts = 4096;
constexpr int64_t kMaxRows = int64_t(1) << 24;
constexpr int64_t kMaxColumns = int64_t(1) << 24;

std::optional<uint64_t> parse_hex16(std::string_view text) {
  if (text.size() != 16) return std::nullopt;
  uint64_t value = 0;
  for (const char c : text) {
    if (c >= '0' && c <= '9')
      value = value << 4 | uint64_t(c - '0');
    else if (c >= 'a' && c <= 'f')
      value = value << 4 | uint64_t(c - 'a' + 10);
    else
      return std::nullopt;
  }
  return value;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

}  // namespace

EngineFile::EngineFile(const std::string& path)
    : file_(path, ErrorKind::kEngineFile), header_(file_.bytes(), path, ErrorKind::kEngineFile, kLimits) {
  file_.share_lock();
  // Before anything large is touched: decode on 4 KB pages reads at half the speed
  // (docs/kernels/linear_int4.md).
  file_.advise(0, file_.size(), Advice::kHugePages);
  check_format();
  check_header_checksum();
  try {
    config_ = ModelConfig::from_json(required_metadata("config"));
  } catch (const Error& error) {
    throw Error(error.kind(), error_text(path, ": ", error.what()));
  }
  check_alignment();
  read_checksums();
  read_weights();
  read_files();
}

void EngineFile::fail(const std::string& problem) const {
  throw Error(ErrorKind::kEngineFile, error_text(path(), ": ", problem));
}

const std::string& EngineFile::required_metadata(std::string_view key) const {
  const std::string* value = find_metadata(key);
  if (!value) fail(error_text("__metadata__: \"", key, "\" is missing"));
  return *value;
}

void EngineFile::check_format() {
  const std::string* format = find_metadata("format");
  if (!format || *format != engine_format::kName)
    fail(
        "a safetensors file, but not an engine file; build one from a checkpoint with: "
        "llama4rt build SRC -o OUT.l4e");
  const std::string& version = required_metadata("format_version");
  if (version != std::to_string(engine_format::kVersion))
    fail(error_text("engine format version ", json::printable(version), "; this llama4rt (", LLAMA4RT_VERSION,
                    ") reads version ", engine_format::kVersion,
                    "; build the file again with: llama4rt build SRC -o OUT.l4e"));
  const std::string& target = required_metadata("target");
  const std::string& layout = required_metadata("layout");
  const std::optional<Layout> known = engine_format::layout_of_target(target);
  if (!known || layout != layout_name(*known))
    fail(error_text("built for target \"", json::printable(target), "\" (layout \"", json::printable(layout),
                    "\"), which this llama4rt (", LLAMA4RT_VERSION,
                    ") does not know; build one with: llama4rt build --target cpu SRC -o OUT.l4e (or cuda)"));
  layout_ = *known;
}

void EngineFile::require_layout(Layout layout, const std::string& device) const {
  if (layout == layout_) return;
  const std::string_view target = engine_format::target_of_layout(layout);
  fail(error_text("built for target \"", engine_format::target_of_layout(layout_), "\" (layout \"",
                  layout_name(layout_), "\"), but device \"", device, "\" reads target \"", target,
                  "\" (layout \"", layout_name(layout), "\"); build one with: llama4rt build --target ",
                  target, " SRC -o OUT.l4e"));
}

void EngineFile::check_header_checksum() const {
  const std::optional<uint64_t> expected = parse_hex16(required_metadata("header_checksum"));
  if (!expected) fail("__metadata__: header_checksum must be 16 lower-case hexadecimal digits");
  const auto header = file_.bytes().subspan(8, header_.data_offset() - 8);
  const size_t digits = size_t(header_.metadata_text_offset("header_checksum") - 8);
  // An escape in the JSON string would put other characters at this place.
  const std::string_view text(reinterpret_cast<const char*>(header.data()) + digits, 16);
  if (parse_hex16(text) != expected) fail("__metadata__: header_checksum must be written without escapes");
  const uint64_t actual = engine_format::header_checksum(header, digits);
  if (actual != *expected)
    fail(error_text("the header is damaged: its checksum is ", engine_format::hex16(actual),
                    ", header_checksum says ", engine_format::hex16(*expected)));
}

void EngineFile::check_alignment() const {
  if (header_.data_offset() % engine_format::kDataAlignment != 0)
    fail(error_text("the data begin at byte ", header_.data_offset(), "; it must be a multiple of ",
                    engine_format::kDataAlignment));
  for (const StoredTensor& tensor : tensors()) {
    const uint64_t alignment = tensor.bytes % engine_format::kTensorAlignment == 0
                                   ? engine_format::kTensorAlignment
                                   : uint64_t(tensor.dtype->bits) / 8;
    if (tensor.bytes > 0 && alignment > 1 && tensor.offset % alignment != 0)
      fail(error_text(json::printable(tensor.name), ": payload begins at byte ", tensor.offset,
                      "; it must be a multiple of ", alignment));
  }
}

void EngineFile::read_checksums() {
  const json::Value value = json::parse(required_metadata("checksums"), ErrorKind::kEngineFile,
                                        path() + ": checksums", {.max_values = kLimits.max_values});
  if (!value.object()) fail("checksums must be a JSON object");
  for (const auto& [name, digits] : *value.object()) {
    const StoredTensor* tensor = header_.find(name);
    if (!tensor) fail(error_text("checksums: there is no tensor \"", json::printable(name), "\""));
    const std::optional<uint64_t> sum = digits.string() ? parse_hex16(*digits.string()) : std::nullopt;
    if (!sum)
      fail(error_text("checksums: ", json::printable(name), " must be 16 lower-case hexadecimal digits"));
    checksums_.emplace(tensor->name, *sum);
  }
  for (const StoredTensor& tensor : tensors())
    if (!checksums_.contains(tensor.name))
      fail(error_text("checksums: ", json::printable(tensor.name), " is missing"));
}

void EngineFile::read_weights() {
  const json::Value value = json::parse(required_metadata("weights"), ErrorKind::kEngineFile,
                                        path() + ": weights", {.max_values = kLimits.max_values});
  if (!value.object()) fail("weights must be a JSON object");
  for (const auto& [name, descriptor] : *value.object()) {
    weights_.emplace(name, read_weight(name, descriptor));
  }
}

// A stored tensor that must look exactly like this.
const StoredTensor& EngineFile::part(const std::string& name, std::string_view role, std::string_view dtype,
                                     const std::vector<int64_t>& shape) const {
  const StoredTensor* tensor = header_.find(name);
  if (!tensor) fail(error_text("weights: there is no tensor \"", json::printable(name), "\" (", role, ")"));
  if (tensor->dtype->name != dtype || tensor->shape != shape)
    fail(error_text(json::printable(name), ": stored as ", tensor->describe(), ", but its descriptor needs ",
                    dtype, " ", shape_text(shape), " (", role, ")"));
  return *tensor;
}

WeightInfo EngineFile::read_weight(const std::string& name, const json::Value& descriptor) const {
  const auto bad = [&](const auto&... parts) {
    fail(error_text("weights: ", json::printable(name), ": ", parts...));
  };
  if (!descriptor.object()) bad("the descriptor must be an object");
  for (const auto& [key, value] : *descriptor.object())
    if (key != "kind" && key != "layout" && key != "shape" && key != "group_size" && key != "offsets" &&
        key != "table" && key != "rms_error" && key != "max_error")
      bad("unknown field \"", json::printable(key), "\"");

  const auto text = [&](const char* key) -> std::string {
    const json::Value* value = descriptor.find(key);
    if (!value || !value->string()) bad(key, " must be a string");
    return *value->string();
  };
  const auto integer = [&](const char* key, const json::Value* value, int64_t low, int64_t high) -> int64_t {
    const json::Number* number = value ? value->number() : nullptr;
    if (!number || !number->is_integer || number->integer < low || number->integer > high)
      bad(key, " must be an integer in ", low, "..", high);
    return number->integer;
  };
  const auto error_figure = [&](const char* key) -> double {
    const json::Value* value = descriptor.find(key);
    const json::Number* number = value ? value->number() : nullptr;
    if (!number || !(number->real >= 0)) bad(key, " must be a number >= 0");
    return number->real;
  };

  WeightInfo info;
  Weight& w = info.view;
  const std::string kind = text("kind"), layout = text("layout");
  const std::optional<WeightKind> known = find_weight_kind(kind);
  if (!known) bad("unknown kind \"", json::printable(kind), "\"; ", weight_kind_names(), " exist");
  w.kind = *known;
  w.layout = layout_;
  if (layout != layout_name(layout_))
    bad("layout \"", json::printable(layout), "\"; the weights of this file are in ", layout_name(layout_));
  const json::Value* shape = descriptor.find("shape");
  if (!shape || !shape->array() || shape->array()->size() != 3) bad("shape must be a list [E, N, K]");
  w.num_experts = integer("shape[0] (experts)", &(*shape->array())[0], 1, kMaxExperts);
  w.n = integer("shape[1] (rows)", &(*shape->array())[1], 1, kMaxRows);
  w.k = integer("shape[2] (columns)", &(*shape->array())[2], 1, kMaxColumns);
  w.group_size = int(integer("group_size", descriptor.find("group_size"), 0, 128));
  if (w.quantized() ? !valid_group_size(w.group_size) : w.group_size != 0)
    bad("group_size is ", w.group_size, "; ", kind, " allows ",
        w.quantized() ? group_size_names() : "0 only");
  const json::Value* offsets = descriptor.find("offsets");
  if (offsets && (!offsets->boolean() || !*offsets->boolean())) bad("offsets must be true, or left out");
  if (offsets && !w.format().may_have_offsets) bad(w.format().name, " has no offsets");
  const json::Value* table = descriptor.find("table");
  if ((table != nullptr) != (w.format().meaning == CodeMeaning::kTable))
    bad("table ", table ? "is for table4 alone" : "is missing");
  if (table) {
    if (!table->array() || table->array()->size() != w.table.size())
      bad("table must be a list of 16 integers");
    for (size_t i = 0; i < w.table.size(); ++i)
      w.table[i] = int8_t(integer("every entry of table", &(*table->array())[i], -128, 127));
  }
  info.rms_error = error_figure("rms_error");
  info.max_error = error_figure("max_error");

  const auto data_of = [&](const StoredTensor& tensor) { return bytes(tensor).data(); };
  w.data = data_of(part(name, "weight", w.quantized() ? "U8" : "BF16", engine_format::packed_shape(w)));
  if (!w.quantized()) return info;
  const auto stored_side = [&](Side side) {
    return header_.find(name + std::string(kSides[size_t(side)].suffix));
  };
  const StoredTensor* scales = stored_side(Side::kScales);
  if (scales && scales->dtype->dtype && valid_scale_dtype(*scales->dtype->dtype))
    w.scale_dtype = *scales->dtype->dtype;
  // has_side() asks these two; what they point to is set below.
  if (stored_side(Side::kZeros)) w.zeros = reinterpret_cast<const uint8_t*>(w.data);
  if (offsets) w.offsets = w.data;
  if (w.zeros && !w.format().may_have_zeros) bad(w.format().name, " has no zero points");
  for (const SideFormat& format : kSides) {
    if (has_side(w, format.side))
      set_side(
          w, format.side,
          data_of(part(name + std::string(format.suffix), format.words,
                       dtype_name(side_dtype(w, format.side)), engine_format::side_shape(w, format.side))));
    else if (stored_side(format.side))
      bad(format.words, " are stored, but the descriptor has none");
  }
  return info;
}

void EngineFile::read_files() {
  const json::Value names =
      json::parse(required_metadata("files"), ErrorKind::kEngineFile, path() + ": files");
  if (!names.array()) fail("files must be a JSON list");
  std::set<std::string_view> seen;
  for (const json::Value& item : *names.array()) {
    const std::string* name = item.string();
    if (!name || !engine_format::valid_file_name(*name))
      fail(error_text("files: entry ", file_names_.size(), " is not a plain file name"));
    if (!seen.insert(*name).second) fail(error_text("files: \"", json::printable(*name), "\" appears twice"));
    const StoredTensor* tensor = header_.find(std::string(kFilePrefix) + *name);
    if (!tensor) fail(error_text("files: \"", json::printable(*name), "\" is not stored"));
    if (tensor->dtype->name != "U8" || tensor->shape.size() != 1)
      fail(error_text("files: \"", json::printable(*name), "\" is stored as ", tensor->describe(),
                      "; it must be U8 [bytes]"));
    file_names_.push_back(*name);
  }
  for (const StoredTensor& tensor : tensors())
    if (tensor.name.starts_with(kFilePrefix) &&
        !seen.contains(std::string_view(tensor.name).substr(kFilePrefix.size())))
      fail(error_text("files: ", json::printable(tensor.name), " is stored but not listed"));
}

const StoredTensor& EngineFile::stored(std::string_view name) const {
  const StoredTensor* tensor = header_.find(name);
  if (!tensor) fail(error_text("there is no tensor \"", json::printable(name), "\""));
  return *tensor;
}

Weight EngineFile::weight(std::string_view name) const {
  if (const auto at = weights_.find(name); at != weights_.end()) return at->second.view;
  const StoredTensor& tensor = stored(name);
  if (tensor.dtype->name != "BF16" || tensor.shape.size() != 2 || tensor.bytes == 0)
    fail(error_text(json::printable(name), ": ", tensor.describe(),
                    " is not a weight; weights are packed, or BF16 [N, K] with N and K positive"));
  Weight w;
  w.layout = Layout::kRowMajor;
  w.n = tensor.shape[0];
  w.k = tensor.shape[1];
  w.data = bytes(tensor).data();
  return w;
}

Tensor EngineFile::tensor(std::string_view name) const {
  const StoredTensor& stored_tensor = stored(name);
  if (!stored_tensor.dtype->dtype || stored_tensor.shape.size() > size_t(Tensor::kMaxRank))
    fail(error_text(json::printable(name), ": ", stored_tensor.describe(), " is not a plain tensor"));
  Tensor view;
  // Tensor has no const form; weights are never written, and the mapping is read-only.
  view.data = const_cast<std::byte*>(bytes(stored_tensor).data());
  view.dtype = *stored_tensor.dtype->dtype;
  view.rank = int(stored_tensor.shape.size());
  view.stride0 = 1;
  for (int i = 0; i < view.rank; ++i) {
    view.shape[size_t(i)] = stored_tensor.shape[size_t(i)];
    if (i > 0) view.stride0 *= view.shape[size_t(i)];
  }
  return view;
}

std::span<const std::byte> EngineFile::file(std::string_view name) const {
  return bytes(stored(std::string(kFilePrefix) + std::string(name)));
}

std::vector<std::string> EngineFile::verify(int num_threads) const {
  file_.check_size();
  const std::vector<StoredTensor>& all = tensors();
  std::vector<char> damaged(all.size(), 0);
  std::atomic<size_t> next{0};
  ThreadPool pool(num_threads);
  pool.run([&](int, int) {
    for (size_t i = next++; i < all.size(); i = next++) {
      const auto payload = bytes(all[i]);
      damaged[i] = xxh64(payload.data(), payload.size()) != checksums_.at(all[i].name);
    }
  });
  std::vector<std::string> names;
  for (size_t i = 0; i < all.size(); ++i)
    if (damaged[i]) names.push_back(all[i].name);
  return names;
}

}  // namespace llama4rt
