// EngineWriter: rows of weights, quantised here or as codes that a checkpoint brought.
#include <algorithm>
#include <array>

#include "base/json.h"
#include "format/engine_writer.h"
#include "weights/layout.h"

namespace llama4rt {
namespace {

// Of source values turned at a time, so that a large table is never in memory twice.
constexpr int64_t kValuesAtATime = int64_t(16) << 20;

[[noreturn]] void fail(const std::string& message) { throw Error(ErrorKind::kInternal, message); }

PackSpec pack_spec(const Weight& shape) {
  return {.kind = shape.kind,
          .n = shape.n,
          .k = shape.k,
          .group_size = shape.group_size,
          .scale_dtype = shape.scale_dtype,
          .factor_dtype = shape.factor_dtype,
          .row_factors = shape.row_factors,
          .zeros = shape.zeros != nullptr,
          .offsets = shape.offsets != nullptr,
          .table = shape.table,
          .layout = shape.layout};
}

// "F32 scales, zero points and offsets", for messages.
std::string describe_sides(DType scale_dtype, bool zeros, bool offsets) {
  return error_text(dtype_name(scale_dtype), " scales",
                    zeros ? offsets ? ", zero points" : " and zero points" : "",
                    offsets ? " and offsets" : "");
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
  const int64_t slice = std::max<int64_t>(1, kValuesAtATime / std::max<int64_t>(1, source.columns));
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

void EngineWriter::add_error(const std::string& name, const PackError& error) {
  const std::lock_guard lock(mutex_);
  require(State::kWriting, "add_error");
  weight_of(name).error.add(error);
}

PackError EngineWriter::report(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto at = weights_.find(name);
  if (at == weights_.end())
    fail(error_text(path_, ": ", json::printable(name), " was not declared as a weight"));
  return at->second.error;
}

}  // namespace llama4rt
