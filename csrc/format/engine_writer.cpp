#include "format/engine_writer.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <charconv>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/checked_math.h"
#include "base/json.h"
#include "base/xxhash.h"
#include "format/engine_file.h"
#include "weights/layout.h"

namespace llama4rt {
namespace {

constexpr uint64_t kIoChunk = uint64_t(4) << 20;
constexpr uint64_t kHeaderLengthBytes = 8;

[[noreturn]] void fail(const std::string& message) { throw Error(ErrorKind::kInternal, message); }

// The largest power of two, up to 64, that divides a size. Tensors in descending order of it are aligned to
// their element size without a hole, and those that fill whole cache lines begin on one.
uint64_t natural_alignment(uint64_t bytes) {
  return bytes % engine_format::kTensorAlignment == 0 ? engine_format::kTensorAlignment
                                                      : uint64_t(1) << std::countr_zero(bytes);
}

// "0.0961848": six digits are plenty for a report, and the same on every machine.
std::string figure(double value) {
  char text[40];
  const auto done = std::to_chars(text, text + sizeof text, value, std::chars_format::general, 6);
  return {text, done.ptr};
}

void append_tensor_entry(std::string& out, const StoredTensor& tensor, uint64_t data_offset) {
  out += json::quote(tensor.name) + ":{\"dtype\":" + json::quote(tensor.dtype->name) + ",\"shape\":[";
  for (size_t i = 0; i < tensor.shape.size(); ++i) out += (i ? "," : "") + std::to_string(tensor.shape[i]);
  const uint64_t begin = tensor.offset - data_offset;
  out += "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(begin + tensor.bytes) + "]}";
}

// What only some weights' descriptors have: ,"offsets":true and ,"table":[...].
std::string descriptor_extras(const Weight& w) {
  std::string out = w.offsets ? ",\"offsets\":true" : "";
  if (w.format().meaning != CodeMeaning::kTable) return out;
  for (size_t i = 0; i < w.table.size(); ++i) out += error_text(i ? "," : ",\"table\":[", int(w.table[i]));
  return out + "]";
}

// First element that is NaN or infinite in `count` floats of `dtype`, or -1.
int64_t find_non_finite(const std::byte* data, DType dtype, int64_t count) {
  const uint32_t exponent = dtype == DType::kF32 ? 0x7f800000u : dtype == DType::kBF16 ? 0x7f80u : 0x7c00u;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits = 0;
    if (dtype == DType::kF32) {
      std::memcpy(&bits, data + i * 4, 4);
    } else {
      uint16_t half;
      std::memcpy(&half, data + i * 2, 2);
      bits = half;
    }
    if ((bits & exponent) == exponent) return i;
  }
  return -1;
}

// Rows may stay unwritten only as the zero padding of a gate_up weight: its last two blocks (gate and up) end
// in the same number of padding rows.
bool only_padding_missing(const std::vector<bool>& written) {
  const int64_t n = int64_t(written.size());
  const auto present = [&](int64_t row) { return bool(written[size_t(row)]); };
  int64_t complete = n;
  if (n % (2 * cpu16::kRows) == 0) {
    const int64_t gate = n - 2 * cpu16::kRows, up = n - cpu16::kRows;
    int64_t used = 0;
    while (used < cpu16::kRows && present(gate + used)) ++used;
    if (used == 0) return false;
    for (int64_t lane = 0; lane < cpu16::kRows; ++lane)
      if (present(gate + lane) != (lane < used) || present(up + lane) != (lane < used)) return false;
    complete = gate;
  }
  return std::all_of(written.begin(), written.begin() + complete, [](bool w) { return w; });
}

// Stands for "has zero points" or "has offsets" in a Weight that is only a shape.
constexpr uint8_t kIsThere = 0;

}  // namespace

EngineWriter::EngineWriter(std::string path, int num_threads, Layout layout)
    : path_(std::move(path)), layout_(layout), pool_(num_threads) {}

EngineWriter::~EngineWriter() { abort(); }

void EngineWriter::require(State state, const char* call) const {
  if (state_ == state) return;
  const char* const now[] = {"begin() has not been called", "begin() has been called", "it is finished",
                             "it was aborted"};
  fail(error_text(path_, ": ", call, " is impossible now: ", now[size_t(state_)]));
}

// --- plan

void EngineWriter::add_tensor(const std::string& name, const StoredDType* dtype, std::vector<int64_t> shape) {
  if (name.empty() || name.size() > kMaxTensorNameBytes || name == "__metadata__" || !json::valid_utf8(name))
    fail(error_text(path_, ": \"", json::printable(name), "\" cannot be a tensor name"));
  if (shape.size() > kMaxTensorRank) fail(error_text(path_, ": ", name, ": too many dimensions"));
  uint64_t bits = uint64_t(dtype->bits);
  for (const int64_t dim : shape) {
    const auto product = dim < 0 ? std::nullopt : checked_mul(bits, uint64_t(dim));
    if (!product) fail(error_text(path_, ": ", name, ": impossible shape"));
    bits = *product;
  }
  if (bits % 8 != 0) fail(error_text(path_, ": ", name, ": does not fill whole bytes"));
  if (!index_.emplace(name, tensors_.size()).second)
    fail(error_text(path_, ": ", name, " is declared twice"));
  tensors_.push_back({name, dtype, std::move(shape), 0, bits / 8});
}

void EngineWriter::declare_tensor(const std::string& name, const std::string& dtype,
                                  const std::vector<int64_t>& shape) {
  const std::lock_guard lock(mutex_);
  require(State::kDeclaring, "declare_tensor()");
  const StoredDType* stored = find_stored_dtype(dtype);
  if (!stored) fail(error_text(path_, ": ", name, ": unknown dtype \"", json::printable(dtype), "\""));
  add_tensor(name, stored, shape);
  plain_written_[name] = false;
}

void EngineWriter::declare_weight(const std::string& name, const Weight& shape, bool zeros, bool offsets) {
  const std::lock_guard lock(mutex_);
  require(State::kDeclaring, "declare_weight()");
  PlannedWeight weight;
  weight.shape = shape;
  Weight& w = weight.shape;
  w.layout = layout_;
  w.data = w.scales = nullptr;
  w.zeros = zeros ? &kIsThere : nullptr;
  w.offsets = offsets ? &kIsThere : nullptr;
  if (w.num_experts < 1 || w.n < 1 || w.k < 1)
    fail(error_text(path_, ": ", name, ": shape [", w.num_experts, ", ", w.n, ", ", w.k,
                    "] must be positive"));
  if (w.quantized() ? !valid_group_size(w.group_size) : w.group_size != 0)
    fail(error_text(path_, ": ", name, ": group size ", w.group_size, "; ", weight_kind_name(w.kind),
                    " allows ", w.quantized() ? group_size_names() : "0 only"));
  if (zeros && !w.format().may_have_zeros)
    fail(error_text(path_, ": ", name, ": ", w.format().name, " has no zero points"));
  if (offsets && !w.format().may_have_offsets)
    fail(error_text(path_, ": ", name, ": ", w.format().name, " has no offsets"));
  if (!valid_scale_dtype(w.scale_dtype))
    fail(error_text(path_, ": ", name, ": scales must be BF16, F16, F32, I8 or F8_E4M3"));
  if (has_factors(w.scale_dtype) && !valid_factor_dtype(w.factor_dtype))
    fail(error_text(path_, ": ", name, ": factors must be F16 or F32"));
  const std::string refusal = weight_refusal(w);
  LLAMA4RT_CHECK(kConfig, refusal.empty(), path_, ": ", name, ": ", refusal);

  add_tensor(name, find_stored_dtype(w.quantized() ? "U8" : "BF16"), engine_format::packed_shape(w));
  for (const SideFormat& format : kSides)
    if (has_side(w, format.side))
      add_tensor(name + std::string(format.suffix), find_stored_dtype(dtype_name(side_dtype(w, format.side))),
                 engine_format::side_shape(w, format.side));
  weight.written.assign(size_t(w.num_experts), std::vector<bool>(size_t(w.n), false));
  weights_.emplace(name, std::move(weight));
}

void EngineWriter::plan_offsets() {
  std::stable_sort(tensors_.begin(), tensors_.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return natural_alignment(a.bytes) > natural_alignment(b.bytes);
  });
  uint64_t at = data_offset_;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    tensors_[i].offset = at;
    index_[tensors_[i].name] = i;
    const auto end = checked_add(at, tensors_[i].bytes);
    if (!end || *end > uint64_t(std::numeric_limits<int64_t>::max()))
      fail(error_text(path_, ": the file would be larger than a file can be"));
    at = *end;
  }
  data_bytes_ = at - data_offset_;
}

bool EngineWriter::begin(uint64_t metadata_reserve, bool resume) {
  const std::lock_guard lock(mutex_);
  require(State::kDeclaring, "begin()");
  plan_offsets();
  // The header without the caller's metadata, with the widest figures it can hold, plus the reserve.
  const uint64_t own = make_header({}, std::vector<uint64_t>(tensors_.size())).size() + weights_.size() * 40;
  data_offset_ = round_up(kHeaderLengthBytes + own + metadata_reserve, engine_format::kDataAlignment);
  plan_offsets();
  output_.emplace(path_, data_offset_ + data_bytes_, resume);
  state_ = State::kWriting;
  return output_->adopted();
}

// --- payload

const StoredTensor& EngineWriter::planned(const std::string& name) const {
  const auto at = index_.find(name);
  if (at == index_.end()) fail(error_text(path_, ": ", json::printable(name), " was not declared"));
  return tensors_[at->second];
}

EngineWriter::PlannedWeight& EngineWriter::weight_of(const std::string& name) {
  const auto at = weights_.find(name);
  if (at == weights_.end())
    fail(error_text(path_, ": ", json::printable(name), " was not declared as a weight"));
  return at->second;
}

Weight EngineWriter::declared_weight(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto at = weights_.find(name);
  if (at == weights_.end())
    fail(error_text(path_, ": ", json::printable(name), " was not declared as a weight"));
  return at->second.shape;
}

void EngineWriter::write_tensor(const std::string& name, std::span<const std::byte> data) {
  const std::lock_guard lock(mutex_);
  require(State::kWriting, "write_tensor()");
  const auto plain = plain_written_.find(name);
  if (plain == plain_written_.end())
    fail(error_text(path_, ": ", json::printable(name), " was not declared as a plain tensor"));
  const StoredTensor& tensor = planned(name);
  if (data.size() != tensor.bytes)
    fail(error_text(path_, ": ", name, ": ", tensor.describe(), " takes ", tensor.bytes, " bytes, not ",
                    data.size()));
  const std::optional<DType> dtype = tensor.dtype->dtype;
  const bool real = dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
  std::atomic<int64_t> bad{std::numeric_limits<int64_t>::max()};
  pool_.parallel_for(int64_t(data.size()), int64_t(kIoChunk), [&](int64_t begin, int64_t end) {
    if (real) {
      const int64_t element = int64_t(dtype_size(*dtype));
      const int64_t found = find_non_finite(data.data() + begin, *dtype, (end - begin) / element);
      if (found >= 0) {
        int64_t seen = bad.load();
        while (begin / element + found < seen && !bad.compare_exchange_weak(seen, begin / element + found)) {
        }
        return;
      }
    }
    output_->write_at(tensor.offset + uint64_t(begin), data.data() + begin, uint64_t(end - begin));
  });
  LLAMA4RT_CHECK(kCheckpoint, bad.load() == std::numeric_limits<int64_t>::max(), name, ": element ",
                 bad.load(), " is NaN or infinite; weights must be finite");
  plain->second = true;
}

// --- resuming

bool EngineWriter::is_written(const std::string& name) const {
  const auto weight = weights_.find(name);
  if (weight != weights_.end())
    return std::all_of(weight->second.written.begin(), weight->second.written.end(), only_padding_missing);
  const auto plain = plain_written_.find(name);
  if (plain == plain_written_.end())
    fail(error_text(path_, ": ", json::printable(name), " was not declared"));
  return plain->second;
}

std::vector<const StoredTensor*> EngineWriter::stored_parts(const std::string& name) const {
  std::vector<const StoredTensor*> parts = {&planned(name)};
  if (const auto weight = weights_.find(name); weight != weights_.end())
    for (const SideFormat& format : kSides)
      if (has_side(weight->second.shape, format.side))
        parts.push_back(&planned(name + std::string(format.suffix)));
  return parts;
}

EngineWriter::Complete EngineWriter::complete(const std::string& name) {
  const std::lock_guard lock(mutex_);
  require(State::kWriting, "complete()");
  if (!is_written(name)) fail(error_text(path_, ": ", name, " is not written completely"));
  Complete done;
  std::vector<char> buffer;
  for (const StoredTensor* tensor : stored_parts(name))
    done.checksums.emplace_back(tensor->name, known_hashes_[tensor->name] = hash(*tensor, buffer));
  if (const auto weight = weights_.find(name); weight != weights_.end()) done.error = weight->second.error;
  return done;
}

bool EngineWriter::restore(const std::string& name, const Complete& done) {
  const std::lock_guard lock(mutex_);
  require(State::kWriting, "restore()");
  if (!output_->adopted()) fail(error_text(path_, ": restore() needs what another writer left"));
  is_written(name);  // an unknown name fails here
  const std::map<std::string, uint64_t> wanted(done.checksums.begin(), done.checksums.end());
  const std::vector<const StoredTensor*> parts = stored_parts(name);
  std::vector<char> buffer;
  const bool same = wanted.size() == parts.size() &&
                    std::all_of(parts.begin(), parts.end(), [&](const StoredTensor* tensor) {
                      const auto at = wanted.find(tensor->name);
                      return at != wanted.end() && at->second == hash(*tensor, buffer);
                    });
  if (!same) {
    for (const StoredTensor* tensor : parts) output_->clear(tensor->offset, tensor->bytes);
    return false;
  }
  known_hashes_.insert(wanted.begin(), wanted.end());
  if (const auto weight = weights_.find(name); weight != weights_.end()) {
    for (std::vector<bool>& expert : weight->second.written) expert.assign(expert.size(), true);
    weight->second.error = done.error;
  } else {
    plain_written_[name] = true;
  }
  return true;
}

// --- finish

void EngineWriter::check_complete() const {
  std::string missing;
  size_t count = 0;
  const auto add = [&](const std::string& what) {
    constexpr size_t kListed = 20;
    if (count++ < kListed) missing += (missing.empty() ? "" : ", ") + what;
  };
  for (const auto& [name, written] : plain_written_)
    if (!written) add(name);
  for (const auto& [name, weight] : weights_)
    for (size_t e = 0; e < weight.written.size(); ++e)
      if (!only_padding_missing(weight.written[e]))
        add(weight.shape.num_experts > 1 ? error_text(name, " (expert ", e, ")") : name);
  if (count > 0)
    fail(error_text(path_, ": ", count, " declared tensors were not written completely: ", missing));
}

uint64_t EngineWriter::hash(const StoredTensor& tensor, std::vector<char>& buffer) const {
  Xxh64 hash;
  for (uint64_t at = 0; at < tensor.bytes; at += kIoChunk) {
    buffer.resize(size_t(std::min(kIoChunk, tensor.bytes - at)));
    output_->read_at(tensor.offset + at, buffer.data(), buffer.size());
    hash.update(buffer.data(), buffer.size());
  }
  return hash.digest();
}

std::vector<uint64_t> EngineWriter::hash_payload() {
  std::vector<uint64_t> hashes(tensors_.size());
  std::vector<size_t> order(tensors_.size());  // largest first, so that threads finish together
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return tensors_[a].bytes > tensors_[b].bytes; });
  std::atomic<size_t> next{0};
  pool_.run([&](int, int) {
    std::vector<char> buffer;
    for (size_t i = next++; i < order.size(); i = next++) {
      const StoredTensor& tensor = tensors_[order[i]];
      const auto known = known_hashes_.find(tensor.name);
      hashes[order[i]] = known != known_hashes_.end() ? known->second : hash(tensor, buffer);
    }
  });
  return hashes;
}

// The JSON text, not yet padded, with a header_checksum of zeros.
std::string EngineWriter::make_header(const std::vector<std::pair<std::string, std::string>>& metadata,
                                      const std::vector<uint64_t>& hashes) const {
  std::string weights = "{", checksums = "{";
  for (const StoredTensor& tensor : tensors_) {
    checksums += (checksums.size() > 1 ? "," : "") + json::quote(tensor.name) + ":\"" +
                 engine_format::hex16(hashes[size_t(&tensor - tensors_.data())]) + "\"";
    const auto at = weights_.find(tensor.name);
    if (at == weights_.end()) continue;
    const Weight& w = at->second.shape;
    weights +=
        error_text(weights.size() > 1 ? "," : "", json::quote(tensor.name), ":{\"kind\":\"",
                   weight_kind_name(w.kind), "\",\"layout\":\"", layout_name(w.layout), "\",\"shape\":[",
                   w.num_experts, ",", w.n, ",", w.k, "],\"group_size\":", w.group_size, descriptor_extras(w),
                   ",\"rms_error\":", figure(at->second.error.relative_rms()),
                   ",\"max_error\":", figure(at->second.error.max_abs), "}");
  }
  std::string out = "{\"__metadata__\":{";
  for (const auto& [key, value] : metadata) out += json::quote(key) + ":" + json::quote(value) + ",";
  out += "\"weights\":" + json::quote(weights + "}") + ",\"checksums\":" + json::quote(checksums + "}") +
         ",\"header_checksum\":\"" + std::string(engine_format::kNoChecksum) + "\"}";
  for (const StoredTensor& tensor : tensors_) {
    out += ",";
    append_tensor_entry(out, tensor, data_offset_);
  }
  return out + "}";
}

// The metadata turned out larger than the reserve: shifts the payload towards the end, last bytes first.
void EngineWriter::move_payload(uint64_t new_data_offset) {
  const uint64_t distance = new_data_offset - data_offset_;
  output_->reserve(new_data_offset + data_bytes_);
  std::vector<char> buffer(size_t(std::min(kIoChunk, data_bytes_)));
  for (uint64_t left = data_bytes_; left > 0;) {
    const uint64_t bytes = std::min(kIoChunk, left);
    left -= bytes;
    output_->read_at(data_offset_ + left, buffer.data(), bytes);
    output_->write_at(data_offset_ + left + distance, buffer.data(), bytes);
  }
  for (StoredTensor& tensor : tensors_) tensor.offset += distance;
  data_offset_ = new_data_offset;
}

uint64_t EngineWriter::finish(const std::vector<std::pair<std::string, std::string>>& metadata) {
  const std::lock_guard lock(mutex_);
  require(State::kWriting, "finish()");
  for (const auto& [key, value] : metadata)
    if (key == "weights" || key == "checksums" || key == "header_checksum")
      fail(error_text(path_, ": metadata \"", key, "\" is the writer's own"));
  check_complete();
  const std::vector<uint64_t> hashes = hash_payload();
  std::string header = make_header(metadata, hashes);
  if (header.size() > engine_format::kMaxHeaderBytes - engine_format::kDataAlignment)
    fail(error_text(path_, ": the header would have ", header.size(), " bytes; at most ",
                    engine_format::kMaxHeaderBytes - engine_format::kDataAlignment, " are allowed"));
  if (kHeaderLengthBytes + header.size() > data_offset_)
    move_payload(round_up(kHeaderLengthBytes + header.size(), engine_format::kDataAlignment));
  header.resize(size_t(data_offset_ - kHeaderLengthBytes), ' ');
  constexpr std::string_view kKey = "\"header_checksum\":\"";
  const size_t digits = header.find(kKey) + kKey.size();
  const std::string sum =
      engine_format::hex16(engine_format::header_checksum(std::as_bytes(std::span(header)), digits));
  header.replace(digits, sum.size(), sum);
  std::array<unsigned char, kHeaderLengthBytes> length;
  for (size_t i = 0; i < length.size(); ++i) length[i] = static_cast<unsigned char>(header.size() >> (8 * i));
  output_->write_at(0, length.data(), length.size());
  output_->write_at(kHeaderLengthBytes, header.data(), header.size());

  output_->publish();
  output_.reset();
  state_ = State::kFinished;
  return data_offset_ + data_bytes_;
}

void EngineWriter::suspend() noexcept {
  const std::lock_guard lock(mutex_);
  if (output_) output_->keep_temporary();
  output_.reset();
  if (state_ != State::kFinished) state_ = State::kAborted;
}

void EngineWriter::abort() noexcept {
  const std::lock_guard lock(mutex_);
  output_.reset();
  if (state_ != State::kFinished) state_ = State::kAborted;
}

}  // namespace llama4rt
