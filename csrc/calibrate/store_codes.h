// From the bf16 weights of a layer to matrices of codes: which rows there are, and how rounded ones are stored.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "calibrate/layer_store.h"
#include "calibrate/rounding.h"

namespace llama4rt::calibrate {

inline constexpr size_t kRowsAtOnce = 4096;  // of a matrix in fp32

// The stored rows of a matrix that are not padding, ascending.
std::vector<int64_t> real_rows(const TensorSpec& tensor);

// A matrix of codes of the spec, all zero, in the place of `source`.
std::unique_ptr<Matrix> empty_codes(const Matrix& source, const GridSpec& spec);

// codes: of the stored rows `rows` of the expert
void store_codes(Matrix& to, int64_t expert, std::span<const int64_t> rows, const RoundedRows& codes,
                 const GridSpec& spec, ThreadPool& pool, const std::string& name);

// The whole matrix, or stack of experts, rounded without calibration.
std::unique_ptr<Matrix> plain_codes(const LayerStore& store, const std::string& name, const GridSpec& spec,
                                    ThreadPool& pool);

}  // namespace llama4rt::calibrate
