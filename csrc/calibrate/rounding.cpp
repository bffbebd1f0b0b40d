#include "calibrate/rounding.h"

#include <algorithm>
#include <cmath>

#include "base/checked_math.h"

namespace llama4rt::calibrate {
namespace {

constexpr int64_t kStrip = 128;  // rows that a unit of work rounds together

class Strip {
 public:
  Strip(const Feedback& feedback, const float* importance, const GridSpec& spec, const cpu::Kernels& kernels)
      : feedback_(feedback), importance_(importance), spec_(spec), kernels_(kernels), k_(feedback.k()),
        groups_(ceil_div(k_, int64_t(spec.group_size))), errors_(size_t(k_ * kStrip)),
        grids_(size_t(groups_ * kStrip)), block_(size_t(Feedback::kPanel * kStrip)) {}

  void run(const float* w, int64_t w_stride, int64_t first, int64_t count, bool with_feedback, RoundedRows& out) {
    find_grids(w, w_stride, first, count);
    double energy[kStrip] = {};
    const int zero = spec_.zero(), top = spec_.codes() - 1;
    for (int64_t begin = 0; begin < k_; begin += Feedback::kPanel) {
      const int64_t width = std::min(Feedback::kPanel, k_ - begin);
      const float* const panel = feedback_.panel(begin / Feedback::kPanel);
      for (int64_t j = 0; j < width; ++j) {
        const int64_t input = feedback_.input(begin + j);
        float* const x = block_.data() + j * kStrip;
        for (int64_t r = 0; r < count; ++r) x[r] = w[(first + r) * w_stride + input];
        std::fill(x + count, x + kStrip, 0.0f);
      }
      add(panel, begin, width, block_.data());
      for (int64_t j = 0; j < width; ++j) {
        const int64_t input = feedback_.input(begin + j), group = input / spec_.group_size;
        float* const x = block_.data() + j * kStrip;
        float* const error = errors_.data() + (begin + j) * kStrip;
        kernels_.add_products({.c = x, .c_stride = kStrip, .a = panel + begin * Feedback::kPanel + j,
                               .a_stride = Feedback::kPanel, .b = errors_.data() + begin * kStrip,
                               .b_stride = kStrip, .rows = 1, .columns = kStrip, .count = j});
        const float pivot = feedback_.pivot(begin + j);
        for (int64_t r = 0; r < count; ++r) {
          const Grid& grid = grids_[size_t(group * kStrip + r)];
          const float exact = w[(first + r) * w_stride + input];
          const float from = with_feedback ? x[r] : exact;
          float q = grid.scale == 0 ? 0.0f : std::nearbyint((from - grid.offset) / grid.scale);
          const int code = int(std::clamp(q, float(-zero), float(top - zero))) + zero;
          const float value = grid_value(grid, zero, code);
          out.codes[size_t((first + r) * k_ + input)] = uint8_t(code);
          error[r] = exact - value;
          energy[r] += double(pivot) * double(x[r] - value) * double(x[r] - value);
        }
        std::fill(error + count, error + kStrip, 0.0f);
      }
    }
    for (int64_t r = 0; r < count; ++r) {
      out.errors[size_t(first + r)] = energy[r];
      for (int64_t g = 0; g < groups_; ++g) {
        out.scales[size_t((first + r) * groups_ + g)] = grids_[size_t(g * kStrip + r)].scale;
        if (spec_.offsets) out.offsets[size_t((first + r) * groups_ + g)] = grids_[size_t(g * kStrip + r)].offset;
      }
    }
  }

 private:
  void add(const float* panel, int64_t count, int64_t width, float* x) {
    kernels_.add_products({.c = x, .c_stride = kStrip, .a = panel, .a_stride = Feedback::kPanel,
                           .b = errors_.data(), .b_stride = kStrip, .rows = width, .columns = kStrip, .count = count});
  }
  void find_grids(const float* w, int64_t w_stride, int64_t first, int64_t count) {
    float values[128 + 8], importance[128 + 8];
    for (int64_t g = 0; g < groups_; ++g) {
      const int64_t begin = g * spec_.group_size, many = std::min(int64_t(spec_.group_size), k_ - begin);
      std::fill(importance, importance + 136, 0.0f);
      std::copy_n(importance_ + begin, many, importance);
      for (int64_t r = 0; r < count; ++r) {
        std::fill(values, values + 136, 0.0f);
        std::copy_n(w + (first + r) * w_stride + begin, many, values);
        grids_[size_t(g * kStrip + r)] = search_grid(values, importance, many, spec_);
      }
    }
  }

  const Feedback& feedback_;
  const float* importance_;
  const GridSpec& spec_;
  const cpu::Kernels& kernels_;
  int64_t k_, groups_;
  std::vector<float> errors_;  // [k, kStrip] in the order of rounding
  std::vector<Grid> grids_;    // [groups, kStrip]
  std::vector<float> block_;   // [kPanel, kStrip]
};

}  // namespace

RoundedRows round_rows(const float* w, int64_t w_stride, int64_t rows, const Feedback& feedback, const float* importance,
                       const GridSpec& spec, const RoundOptions& options, const cpu::Kernels& kernels, cpu::Team& team) {
  const int64_t k = feedback.k(), groups = ceil_div(k, int64_t(spec.group_size));
  RoundedRows out;
  out.codes.resize(size_t(rows * k));
  out.scales.resize(size_t(rows * groups));
  if (spec.offsets) out.offsets.resize(size_t(rows * groups));
  out.errors.resize(size_t(rows));
  std::vector<std::unique_ptr<Strip>> strips(size_t(team.size()));
  team.share(ceil_div(rows, kStrip), [&](int member) {
    auto& mine = strips[size_t(member)];
    if (!mine) mine = std::make_unique<Strip>(feedback, importance, spec, kernels);
  }, [&](int member, int64_t unit) {
    const int64_t first = unit * kStrip;
    strips[size_t(member)]->run(w, w_stride, first, std::min(kStrip, rows - first), options.feedback, out);
  });
  return out;
}

}  // namespace llama4rt::calibrate
