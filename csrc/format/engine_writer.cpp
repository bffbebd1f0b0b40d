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

}  // namespace

// The blocks of one expert of one weight, in the temporary file.
class EngineWriter::FileBlocks : public BlockStore {
 public:
  FileBlocks(const EngineWriter& writer, const std::string& name, const PackSpec& spec, int64_t expert)
      : writer_(writer), spec_(spec), first_(expert * cpu16::num_blocks(spec.n)) {
    data_ = writer.planned(name).offset;
    for (const SideFormat& format : kSides)
      if (has_side(spec, format.side))
        sides_[size_t(format.side)] = writer.planned(name + std::string(format.suffix)).offset;
  }

  void load(int64_t index, PackedBlock& block) override {
    each_part(index, block, [this](uint64_t at, std::vector<unsigned char>& bytes) {
      writer_.output_->read_at(at, bytes.data(), bytes.size());
    });
  }
  void store(int64_t index, const PackedBlock& block) override {
    each_part(index, block, [this](uint64_t at, const std::vector<unsigned char>& bytes) {
      writer_.output_->write_at(at, bytes.data(), bytes.size());
    });
  }

 private:
  // visit(place in the file, bytes) of every part of a block; parts that the weight does not have are empty.
  template <class Block, class Visit>
  void each_part(int64_t index, Block& block, const Visit& visit) const {
    const uint64_t at = uint64_t(first_ + index);
    visit(data_ + at * block.data.size(), block.data);
    for (size_t i = 0; i < kSides.size(); ++i) visit(sides_[i] + at * block.sides[i].size(), block.sides[i]);
  }

  const EngineWriter& writer_;
  PackSpec spec_;
  int64_t first_;
  uint64_t data_ = 0;
  std::array<uint64_t, kSides.size()> sides_{};
};

namespace {

PackSpec pack_spec(const Weight& shape) {
  return {.kind = shape.kind,
          .n = shape.n,
          .k = shape.k,
          .group_size = shape.group_size,
          .scale_dtype = shape.scale_dtype,
          .zeros = shape.zeros != nullptr,
          .offsets = shape.offsets != nullptr,
          .table = shape.table,
          .layout = shape.layout};
}

// Stands for "has zero points" or "has offsets" in a Weight that is only a shape.
constexpr uint8_t kIsThere = 0;

// "F32 scales, zero points and offsets", for messages.
std::string describe_sides(DType scale_dtype, bool zeros, bool offsets) {
  return error_text(dtype_name(scale_dtype), " scales",
                    zeros ? offsets ? ", zero points" : " and zero points" : "",
                    offsets ? " and offsets" : "");
}

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

// Checks that rows are in range and new, and marks them.
void EngineWriter::mark_rows(std::vector<bool>& written, const std::string& name,
                             std::span<const int64_t> rows) const {
  for (const int64_t row : rows) {
    if (row < 0 || row >= int64_t(written.size()))
      fail(error_text(path_, ": ", name, ": row ", row, " is outside 0..", int64_t(written.size()) - 1));
    if (written[size_t(row)]) fail(error_text(path_, ": ", name, ": row ", row, " is written twice"));
    written[size_t(row)] = true;
  }
}

void EngineWriter::quantize_rows(const std::string& name, int64_t expert, std::span<const int64_t> rows,
                                 const SourceMatrix& source) {
  const std::lock_guard lock(mutex_);
  require(State::kWriting, "quantize_rows()");
  if (source.rows != int64_t(rows.size()))
    fail(error_text(path_, ": ", name, ": ", source.rows, " source rows for ", rows.size(), " stored rows"));
  if (plain_written_.contains(name)) return convert_rows(planned(name), rows, source);
  PlannedWeight& weight = weight_of(name);
  const Weight& w = weight.shape;
  if (expert < 0 || expert >= w.num_experts)
    fail(error_text(path_, ": ", name, ": expert ", expert, " is outside 0..", w.num_experts - 1));
  if (source.columns != w.k)
    fail(error_text(path_, ": ", name, ": source has ", source.columns, " columns, the weight has ", w.k));
  if (w.zeros || w.offsets || !w.format().from_values ||
      (w.scale_dtype != DType::kBF16 && w.scale_dtype != DType::kF32))
    fail(error_text(path_, ": ", name, ": values do not become ", w.format().name, " weights with ",
                    describe_sides(w.scale_dtype, w.zeros, w.offsets), "; codes can be imported"));
  mark_rows(weight.written[size_t(expert)], name, rows);
  const PackSpec spec = pack_spec(w);
  FileBlocks blocks(*this, name, spec, expert);
  const std::string what = w.num_experts > 1 ? error_text(name, ", expert ", expert) : name;
  weight.error.add(pack_rows(spec, source, rows, blocks, pool_, what));
}

void EngineWriter::convert_rows(const StoredTensor& tensor, std::span<const int64_t> rows,
                                const SourceMatrix& source) {
  if (tensor.dtype->name != "BF16" || tensor.shape.size() != 2 || tensor.shape[1] != source.columns)
    fail(error_text(path_, ": ", tensor.name, ": ", tensor.describe(), " does not take rows of ",
                    source.columns, " values"));
  std::vector<bool>& written = plain_rows_[tensor.name];
  written.resize(size_t(tensor.shape[0]), false);
  mark_rows(written, tensor.name, rows);
  // A chunk of rows at a time, so that a large table is never in memory twice.
  const int64_t slice = std::max<int64_t>(1, int64_t(kIoChunk) * 4 / std::max<int64_t>(1, source.columns));
  std::vector<bf16> converted;
  for (int64_t first = 0; first < source.rows; first += slice) {
    SourceMatrix part = source;
    part.rows = std::min(slice, source.rows - first);
    part.data = static_cast<const char*>(source.data) + first * source.row_bytes;
    converted.resize(size_t(part.rows * part.columns));
    const std::string what = first == 0 ? tensor.name : error_text(tensor.name, " (rows from ", first, ")");
    convert_rows_to_bf16(part, converted, pool_, what);
    const uint64_t row_bytes = uint64_t(source.columns) * sizeof(bf16);
    for (int64_t i = 0; i < part.rows; ++i)
      output_->write_at(tensor.offset + uint64_t(rows[size_t(first + i)]) * row_bytes,
                        converted.data() + i * source.columns, row_bytes);
  }
  plain_written_[tensor.name] = std::all_of(written.begin(), written.end(), [](bool w) { return w; });
}

void EngineWriter::import_rows(const std::string& name, int64_t expert, std::span<const int64_t> rows,
                               const CodeRows& source, DType scale_dtype) {
  const std::lock_guard lock(mutex_);
  require(State::kWriting, "import_rows()");
  PlannedWeight& weight = weight_of(name);
  const Weight& w = weight.shape;
  if (source.rows != int64_t(rows.size()))
    fail(error_text(path_, ": ", name, ": ", source.rows, " source rows for ", rows.size(), " stored rows"));
  if (expert < 0 || expert >= w.num_experts)
    fail(error_text(path_, ": ", name, ": expert ", expert, " is outside 0..", w.num_experts - 1));
  if (!w.quantized())
    fail(error_text(path_, ": ", name, ": declared as ", weight_kind_name(w.kind), ", which has no codes"));
  if (w.scale_dtype != scale_dtype || (w.zeros != nullptr) != (source.zeros != nullptr) ||
      (w.offsets != nullptr) != (source.offsets != nullptr))
    fail(error_text(path_, ": ", name, ": declared as ", weight_kind_name(w.kind), " with ",
                    describe_sides(w.scale_dtype, w.zeros, w.offsets), "; the codes to import come with ",
                    describe_sides(scale_dtype, source.zeros, source.offsets)));
  const bool factors = has_factors(scale_dtype);
  if ((source.factors != nullptr) != factors || (source.offset_factors != nullptr) != (factors && w.offsets))
    fail(error_text(path_, ": ", name, ": ", describe_sides(scale_dtype, w.zeros, w.offsets), " come ",
                    factors ? "with factors" : "without factors"));
  mark_rows(weight.written[size_t(expert)], name, rows);
  const PackSpec spec = pack_spec(w);
  FileBlocks blocks(*this, name, spec, expert);
  const std::string what = w.num_experts > 1 ? error_text(name, ", expert ", expert) : name;
  pack_codes(spec, source, rows, blocks, pool_, what);
}

PackError EngineWriter::report(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto at = weights_.find(name);
  if (at == weights_.end())
    fail(error_text(path_, ": ", json::printable(name), " was not declared as a weight"));
  return at->second.error;
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
  std::vector<const StoredTensor*> parts;
  for (const char* part : {"", ".scales", ".zeros", ".offsets"})
    if (const auto at = index_.find(name + part); at != index_.end()) parts.push_back(&tensors_[at->second]);
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
