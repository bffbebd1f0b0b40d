#include "calibrate/gram.h"

#include <algorithm>

#include "base/checked_math.h"
#include "calibrate/share.h"

namespace llama4rt::calibrate {
namespace {

constexpr int64_t kTile = 128;  // elements of a side of what a unit of work computes
constexpr int64_t kRows =
    256;  // inputs whose products are summed before they are added to what was there: two levels
          // of addition keep the error of long texts small

// Columns [first, first + kTile) of rows as a dense panel [count, kTile], zeros past k.
void copy_panel(float* panel, const float* x, int64_t stride, int64_t count, int64_t first, int64_t k) {
  const int64_t width = std::min(kTile, k - first);
  for (int64_t t = 0; t < count; ++t) {
    std::copy_n(x + t * stride + first, width, panel + t * kTile);
    std::fill(panel + t * kTile + width, panel + (t + 1) * kTile, 0.0f);
  }
}

}  // namespace

Square::Square(int64_t size) : k(size), stride(round_up(size, int64_t(16))), data(size_t(size * stride)) {}

void add_gram(Square& h, const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t count,
              bool symmetric, const cpu::Kernels& kernels, ThreadPool& pool) {
  const int64_t k = h.k, tiles = ceil_div(k, kTile);
  const int64_t units = symmetric ? tiles * (tiles + 1) / 2 : tiles * tiles;
  struct Buffers {
    std::vector<float> left, right, sum;
  };
  std::vector<Buffers> buffers(size_t(pool.num_threads()));
  share(pool, units, [&](int member, int64_t unit) {
    Buffers& mine = buffers[size_t(member)];
    if (mine.sum.empty()) {
      mine.left.resize(kRows * kTile);
      mine.right.resize(kRows * kTile);
      mine.sum.resize(kTile * kTile);
    }
    int64_t ti = 0, tj = 0;  // the tile; of a symmetric matrix in the lower half
    if (symmetric) {
      while ((ti + 1) * (ti + 2) / 2 <= unit) ++ti;
      tj = unit - ti * (ti + 1) / 2;
    } else {
      ti = unit / tiles;
      tj = unit % tiles;
    }
    const int64_t i0 = ti * kTile, j0 = tj * kTile;
    const int64_t rows = std::min(kTile, k - i0), columns = std::min(kTile, k - j0);
    for (int64_t t = 0; t < count; t += kRows) {
      const int64_t many = std::min(kRows, count - t);
      copy_panel(mine.left.data(), a + t * a_stride, a_stride, many, i0, k);
      copy_panel(mine.right.data(), b + t * b_stride, b_stride, many, j0, k);
      std::fill(mine.sum.begin(), mine.sum.end(), 0.0f);
      kernels.add_products({.c = mine.sum.data(),
                            .c_stride = kTile,
                            .a = mine.left.data(),
                            .a_stride = kTile,
                            .b = mine.right.data(),
                            .b_stride = kTile,
                            .rows = rows,
                            .columns = round_up(columns, int64_t(16)),
                            .count = many});
      for (int64_t i = 0; i < rows; ++i) {
        const float* const sum = mine.sum.data() + i * kTile;
        float* const out = h.row(i0 + i) + j0;
        for (int64_t j = 0; j < columns; ++j) out[j] += sum[j];
        if (symmetric && ti != tj)
          for (int64_t j = 0; j < columns; ++j) h.row(j0 + j)[i0 + i] += sum[j];
      }
    }
  });
}

}  // namespace llama4rt::calibrate
