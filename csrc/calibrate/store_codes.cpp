#include "calibrate/store_codes.h"

#include <algorithm>

namespace llama4rt::calibrate {
namespace {

std::vector<uint16_t> bf16_bits(const std::vector<float>& numbers) {
  std::vector<uint16_t> bits;
  bits.reserve(numbers.size());
  for (const float x : numbers) bits.push_back(to_bf16(x).bits);
  return bits;
}

}  // namespace

std::vector<int64_t> real_rows(const TensorSpec& tensor) {
  std::vector<int64_t> rows;
  for (size_t part = 0; part < tensor.parts.size(); ++part)
    for (int64_t row = 0; row < tensor.parts[part].rows; ++row) rows.push_back(tensor.stored_row(part, row));
  std::sort(rows.begin(), rows.end());
  return rows;
}

std::unique_ptr<Matrix> empty_codes(const Matrix& source, const GridSpec& spec) {
  Weight shape = source.view();
  shape.kind = spec.kind;
  shape.group_size = spec.group_size;
  shape.scale_dtype = spec.scale_dtype;
  return std::make_unique<Matrix>(shape, spec.offsets);
}

void store_codes(Matrix& to, int64_t expert, std::span<const int64_t> rows, const RoundedRows& codes,
                 const GridSpec& spec, ThreadPool& pool, const std::string& name) {
  std::vector<uint16_t> scales, offsets;
  CodeRows ready{.codes = codes.codes.data(), .scales = codes.scales.data(), .rows = int64_t(rows.size())};
  if (spec.offsets) ready.offsets = codes.offsets.data();
  if (spec.scale_dtype == DType::kBF16) {
    scales = bf16_bits(codes.scales);
    ready.scales = scales.data();
    if (spec.offsets) {
      offsets = bf16_bits(codes.offsets);
      ready.offsets = offsets.data();
    }
  }
  to.pack_codes(expert, rows, ready, pool, name);
}

std::unique_ptr<Matrix> plain_codes(const LayerStore& store, const std::string& name, const GridSpec& spec,
                                    ThreadPool& pool) {
  const TensorSpec& tensor = store.spec(name);
  const Matrix& source = store.matrix(name);
  std::unique_ptr<Matrix> codes = empty_codes(source, spec);
  const std::vector<int64_t> rows = real_rows(tensor);
  std::vector<float> values;
  for (int64_t expert = 0; expert < tensor.experts; ++expert)
    for (size_t first = 0; first < rows.size(); first += kRowsAtOnce) {
      const std::span<const int64_t> some(rows.data() + first, std::min(rows.size() - first, kRowsAtOnce));
      values.resize(some.size() * size_t(tensor.k));
      source.read_values(values.data(), expert, some, pool);
      store_codes(*codes, expert, some,
                  round_plainly(values.data(), int64_t(some.size()), tensor.k, spec, pool), spec, pool, name);
    }
  return codes;
}

}  // namespace llama4rt::calibrate
