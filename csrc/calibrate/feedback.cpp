#include "calibrate/feedback.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/checked_math.h"
#include "base/error.h"
#include "calibrate/share.h"

namespace llama4rt::calibrate {
namespace {

constexpr int64_t kBlock = 64;  // columns that are eliminated together
constexpr int64_t kTile = 128;  // a side of what a unit of work updates, a multiple of kBlock
constexpr int kTries = 8;       // dampings, each ten times the one before

// Lower triangular L with a = L L^T, in place, columns in blocks; false where a pivot is not positive. The upper half of
// `a` is neither read nor kept.
class Cholesky {
 public:
  Cholesky(Square& a, const cpu::Kernels& kernels, ThreadPool& pool)
      : a_(a), kernels_(kernels), pool_(pool) {}

  bool run() {
    for (int64_t first = 0; first < a_.k; first += kBlock) {
      const int64_t width = std::min(kBlock, a_.k - first);
      if (!factor_block(first, width)) return false;
      solve_below(first, width);
      update_rest(first, width);
    }
    return true;
  }

 private:
  // The block on the diagonal, in double precision: it is small, and every other number depends on it.
  bool factor_block(int64_t first, int64_t width) {
    for (int64_t j = 0; j < width; ++j) {
      for (int64_t i = j; i < width; ++i) {
        double sum = double(a_.row(first + i)[first + j]);
        for (int64_t t = 0; t < j; ++t) sum -= block_[i][t] * block_[j][t];
        if (i > j) {
          block_[i][j] = sum / block_[j][j];
        } else {
          if (!(sum > 0) || !std::isfinite(sum)) return false;
          block_[j][j] = std::sqrt(sum);
        }
        a_.row(first + i)[first + j] = float(block_[i][j]);
      }
    }
    return true;
  }

  // Rows below the block: x L^T = a, x in place of a, and negated transposed in panel_ for the update.
  void solve_below(int64_t first, int64_t width) {
    const int64_t begin = first + width, rows = a_.k - begin;
    panel_stride_ = round_up(std::max<int64_t>(rows, 1), kTile);
    panel_.assign(size_t(width * panel_stride_), 0.0f);
    negated_.assign(panel_.size(), 0.0f);
    share(pool_, ceil_div(rows, kTile), [&](int, int64_t unit) {
      for (int64_t r = unit * kTile; r < std::min(rows, (unit + 1) * kTile); ++r) {
        float* const row = a_.row(begin + r) + first;
        double solved[kBlock];
        for (int64_t j = 0; j < width; ++j) {
          double sum = double(row[j]);
          for (int64_t t = 0; t < j; ++t) sum -= solved[t] * block_[j][t];
          solved[j] = sum / block_[j][j];
          row[j] = float(solved[j]);
          panel_[size_t(j * panel_stride_ + r)] = row[j];
          negated_[size_t(j * panel_stride_ + r)] = -row[j];
        }
      }
    });
  }

  // What is left of the matrix, its lower half in tiles: a -= x x^T.
  void update_rest(int64_t first, int64_t width) {
    const int64_t begin = first + width, rows = a_.k - begin, tiles = ceil_div(rows, kTile);
    share(pool_, tiles * (tiles + 1) / 2, [&](int, int64_t unit) {
      int64_t ti = 0;
      while ((ti + 1) * (ti + 2) / 2 <= unit) ++ti;
      const int64_t tj = unit - ti * (ti + 1) / 2, i0 = ti * kTile, j0 = tj * kTile;
      const int64_t height = std::min(kTile, rows - i0), columns = std::min(kTile, rows - j0);
      // A copy: rows of the matrix end anywhere, and the kernel works on whole vectors.
      float tile[kTile][kTile];
      for (int64_t i = 0; i < height; ++i) {
        std::copy_n(a_.row(begin + i0 + i) + begin + j0, columns, tile[i]);
        std::fill(tile[i] + columns, tile[i] + kTile, 0.0f);
      }
      kernels_.add_products({.c = tile[0],
                             .c_stride = kTile,
                             .a = negated_.data() + i0,
                             .a_stride = panel_stride_,
                             .b = panel_.data() + j0,
                             .b_stride = panel_stride_,
                             .rows = height,
                             .columns = round_up(columns, int64_t(16)),
                             .count = width});
      for (int64_t i = 0; i < height; ++i) std::copy_n(tile[i], columns, a_.row(begin + i0 + i) + begin + j0);
    });
  }

  Square& a_;
  const cpu::Kernels& kernels_;
  ThreadPool& pool_;
  double block_[kBlock][kBlock] = {};
  std::vector<float> panel_, negated_;  // [width, panel_stride_]
  int64_t panel_stride_ = 0;
};

}  // namespace

Feedback::Feedback(const Square& gram, float damping, const cpu::Kernels& kernels, ThreadPool& pool)
    : order_(size_t(gram.k)), pivots_(size_t(gram.k)), damping_(damping) {
  const int64_t k = gram.k;
  std::iota(order_.begin(), order_.end(), int64_t(0));
  std::stable_sort(order_.begin(), order_.end(),
                   [&](int64_t a, int64_t b) { return gram.row(a)[a] > gram.row(b)[b]; });
  double energy = 0;
  for (int64_t i = 0; i < k; ++i) energy += double(gram.row(i)[i]);
  const double mean = energy / double(k);
  LLAMA4RT_CHECK(kInternal, std::isfinite(mean), "the inputs of a linear are not finite: their energy is ",
                 energy);

  // H = U D U^T with U upper triangular is L L^T of the matrix with rows and columns in reverse.
  Square reversed(k);
  for (int attempt = 0;; ++attempt, damping_ *= 10) {
    LLAMA4RT_CHECK(kInternal, attempt < kTries,
                   "the inputs of a linear cannot be decorrelated, not even with a damping of ", damping_);
    // Inputs that never occur, all of them if need be, count a little: the factorisation exists.
    const float added = float(std::max(mean * double(damping_), 1e-30));
    share(pool, k, [&](int, int64_t i) {
      const float* const from = gram.row(input(k - 1 - i));
      float* const to = reversed.row(i);
      for (int64_t j = 0; j <= i; ++j) to[j] = from[input(k - 1 - j)];
      to[i] += added;
    });
    if (Cholesky(reversed, kernels, pool).run()) break;
  }

  for (int64_t j = 0; j < k; ++j) {
    const float root = reversed.row(k - 1 - j)[k - 1 - j];
    pivots_[size_t(j)] = root * root;
  }
  const int64_t panels = ceil_div(k, kPanel);
  panels_.resize(size_t(kPanel * kPanel * panels * (panels + 1) / 2));
  share(pool, panels, [&](int, int64_t p) {
    float* const out = panels_.data() + kPanel * kPanel * p * (p + 1) / 2;
    for (int64_t j = p * kPanel; j < std::min(k, (p + 1) * kPanel); ++j) {
      const float inverse = 1.0f / reversed.row(k - 1 - j)[k - 1 - j];
      for (int64_t i = 0; i < j; ++i)
        out[i * kPanel + j - p * kPanel] = reversed.row(k - 1 - i)[k - 1 - j] * inverse;
    }
  });
}

}  // namespace llama4rt::calibrate
