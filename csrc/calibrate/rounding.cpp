#include "calibrate/rounding.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "base/checked_math.h"
#include "calibrate/share.h"
#include "weights/quantize.h"

namespace llama4rt::calibrate {
namespace {

constexpr int64_t kStrip = 128;  // rows that a unit of work rounds together; whole vectors of the kernels
constexpr int64_t kPanel = Feedback::kPanel;

RoundedRows rows_of(int64_t rows, int64_t k, int64_t groups, const GridSpec& spec, bool with_costs) {
  RoundedRows out;
  out.codes.resize(size_t(rows * k));
  out.scales.resize(size_t(rows * groups));
  if (spec.offsets) out.offsets.resize(size_t(rows * groups));
  out.errors.resize(size_t(rows));
  if (with_costs) {
    out.cost.resize(size_t(rows));
    out.plain_cost.resize(size_t(rows));
  }
  return out;
}

// What row `row` of `out` has lost of its weights w [k].
PackError error_of(const float* w, int64_t row, int64_t k, const GridSpec& spec, const RoundedRows& out) {
  const int64_t groups = ceil_div(k, int64_t(spec.group_size));
  const uint8_t* const codes = out.codes.data() + row * k;
  PackError error;
  for (int64_t g = 0; g < groups; ++g) {
    const float scale = out.scales[size_t(row * groups + g)];
    const float offset = spec.offsets ? out.offsets[size_t(row * groups + g)] : 0.0f;
    for (int64_t j = g * spec.group_size; j < std::min(k, (g + 1) * spec.group_size); ++j) {
      const double e = double(w[j]) - double(float(int(codes[j]) - spec.zero()) * scale + offset);
      error.squared += e * e;
      error.weight_squared += double(w[j]) * double(w[j]);
      error.max_abs = std::max(error.max_abs, std::fabs(e));
    }
  }
  return error;
}

// The plain codes of one row, and its grids.
void plain_row(const float* w, int64_t k, const GridSpec& spec, uint8_t* codes, Grid* grids) {
  const CodeRange range(spec);
  float values[kLargestGroup + kGroupPadding];
  uint8_t padded[kLargestGroup + kGroupPadding];
  for (int64_t begin = 0, g = 0; begin < k; begin += spec.group_size, ++g) {
    const int64_t count = std::min(int64_t(spec.group_size), k - begin);
    std::fill(values, values + kLargestGroup + kGroupPadding, 0.0f);
    std::copy_n(w + begin, count, values);
    if (!spec.offsets) {
      GroupError error;
      grids[g] = {quantize_group(spec.kind)(values, count, spec.scale_dtype, padded, error), 0};
      std::copy_n(padded, count, codes + begin);
      continue;
    }
    float alike[kLargestGroup + kGroupPadding] = {};
    std::fill(alike, alike + count, 1.0f);
    grids[g] = search_grid(values, alike, count, spec);
    const float inverse = inverse_scale(grids[g]);
    for (int64_t i = 0; i < count; ++i)
      codes[begin + i] = uint8_t(int(nearest_code(values[i], inverse, grids[g].offset, range) - range.low));
  }
}

// Rounds up to kStrip rows at once, one to a lane. Everything lies by input, in the order of rounding, or by group, with
// the lanes side by side.
class Strip {
 public:
  Strip(const Feedback& feedback, const float* importance, const GridSpec& spec, const cpu::Kernels& kernels)
      : feedback_(feedback),
        importance_(importance),
        spec_(spec),
        kernels_(kernels),
        k_(feedback.k()),
        groups_(ceil_div(k_, int64_t(spec.group_size))),
        weights_(size_t(k_ * kStrip)),
        errors_(size_t(k_ * kStrip)),
        scales_(size_t(groups_ * kStrip)),
        inverses_(size_t(groups_ * kStrip)),
        offsets_(size_t(groups_ * kStrip)),
        codes_(size_t(k_ * kStrip)),
        from_(size_t(kPanel * kStrip)) {}

  // w: [count, k]; out: all rows, of which these are `first` and the following
  void run(const float* w, int64_t first, int64_t count, RoundedRows& out) {
    for (int64_t j = 0; j < k_; ++j)
      for (int64_t r = 0; r < kStrip; ++r)
        weights_[size_t(j * kStrip + r)] = r < count ? w[r * k_ + feedback_.input(j)] : 0.0f;

    double plain[kStrip], cost[kStrip];
    choose_plainly(w, count);
    sweep(plain, [](int64_t, const float*) {});
    std::copy_n(plain, count, out.plain_cost.data() + first);
    for (int64_t r = 0; r < count; ++r) put_row(r, first + r, out);

    find_grids(w, count);
    sweep(cost, [&](int64_t j, const float* from) { round(j, from); });
    for (int64_t r = 0; r < count; ++r) {
      const bool better = cost[r] < plain[r];
      out.cost[size_t(first + r)] = better ? cost[r] : plain[r];
      if (better) put_row(r, first + r, out);
      out.errors[size_t(first + r)] = error_of(w + r * k_, first + r, k_, spec_, out);
    }
  }

 private:
  float* lanes(std::vector<float>& of, int64_t i) const { return of.data() + i * kStrip; }
  int64_t group_of(int64_t j) const { return feedback_.input(j) / spec_.group_size; }

  void put_grid(int64_t group, int64_t lane, const Grid& grid) {
    lanes(scales_, group)[lane] = grid.scale;
    lanes(inverses_, group)[lane] = inverse_scale(grid);
    lanes(offsets_, group)[lane] = grid.offset;
  }

  void put_row(int64_t lane, int64_t row, RoundedRows& out) const {
    for (int64_t j = 0; j < k_; ++j)
      out.codes[size_t(row * k_ + feedback_.input(j))] = codes_[size_t(j * kStrip + lane)];
    for (int64_t g = 0; g < groups_; ++g) {
      out.scales[size_t(row * groups_ + g)] = scales_[size_t(g * kStrip + lane)];
      if (spec_.offsets) out.offsets[size_t(row * groups_ + g)] = offsets_[size_t(g * kStrip + lane)];
    }
  }

  void find_grids(const float* w, int64_t count) {
    float values[kLargestGroup + kGroupPadding], importance[kLargestGroup + kGroupPadding];
    for (int64_t g = 0; g < groups_; ++g) {
      const int64_t begin = g * spec_.group_size, many = std::min(int64_t(spec_.group_size), k_ - begin);
      std::fill(importance, importance + kLargestGroup + kGroupPadding, 0.0f);
      std::copy_n(importance_ + begin, many, importance);
      std::fill(values, values + kLargestGroup + kGroupPadding, 0.0f);
      for (int64_t r = 0; r < count; ++r) {
        std::copy_n(w + r * k_ + begin, many, values);
        put_grid(g, r, search_grid(values, importance, many, spec_));
      }
    }
  }

  // Codes, grids and errors of plain rounding.
  void choose_plainly(const float* w, int64_t count) {
    std::vector<uint8_t> codes(static_cast<size_t>(k_));
    std::vector<Grid> grids(static_cast<size_t>(groups_));
    const float zero = float(spec_.zero());
    std::fill(errors_.begin(), errors_.end(), 0.0f);
    for (int64_t r = 0; r < count; ++r) {
      plain_row(w + r * k_, k_, spec_, codes.data(), grids.data());
      for (int64_t g = 0; g < groups_; ++g) put_grid(g, r, grids[size_t(g)]);
      for (int64_t j = 0; j < k_; ++j) {
        const uint8_t code = codes[size_t(feedback_.input(j))];
        const Grid& grid = grids[size_t(group_of(j))];
        codes_[size_t(j * kStrip + r)] = code;
        lanes(errors_, j)[r] = lanes(weights_, j)[r] - ((float(code) - zero) * grid.scale + grid.offset);
      }
    }
  }

  // Codes and errors of input j.   from: its weights with the errors so far made good
  void round(int64_t j, const float* from) {
    const int64_t group = group_of(j);
    const float* const scale = lanes(scales_, group);
    const float* const inverse = lanes(inverses_, group);
    const float* const offset = lanes(offsets_, group);
    const float* const exact = lanes(weights_, j);
    float* const error = lanes(errors_, j);
    uint8_t* const codes = codes_.data() + j * kStrip;
    const CodeRange range(spec_);
    for (int64_t r = 0; r < kStrip; ++r) {
      const float code = nearest_code(from[r], inverse[r], offset[r], range);
      error[r] = exact[r] - (code * scale[r] + offset[r]);
      codes[r] = uint8_t(int(code - range.low));
    }
  }

  // Visits the inputs in the order of rounding and adds up what the errors cost. choose(j, from) may set those of input
  // j; from: its weights with the errors so far made good.
  template <class Choose>
  void sweep(double (&cost)[kStrip], const Choose& choose) {
    std::fill(cost, cost + kStrip, 0.0);
    for (int64_t begin = 0; begin < k_; begin += kPanel) {
      const int64_t width = std::min(kPanel, k_ - begin);
      const float* const panel = feedback_.panel(begin / kPanel);
      std::copy_n(lanes(weights_, begin), width * kStrip, from_.begin());
      add_errors(from_.data(), width, panel, 0, begin);
      for (int64_t j = begin; j < begin + width; ++j) {
        float* const from = lanes(from_, j - begin);
        add_errors(from, 1, panel + (j - begin), begin, j);
        choose(j, from);
        const float* const exact = lanes(weights_, j);
        const float* const error = lanes(errors_, j);
        const double pivot = double(feedback_.pivot(j));
        for (int64_t r = 0; r < kStrip; ++r) {
          const double left =
              double(from[r] - exact[r]) + double(error[r]);  // what feedback has not made good
          cost[r] += pivot * left * left;
        }
      }
    }
  }

  // from[i] += sum over j in [begin, end) of U[j, i] * error(j), for `rows` inputs i from the panel's column on
  void add_errors(float* from, int64_t rows, const float* panel, int64_t begin, int64_t end) {
    kernels_.add_products({.c = from,
                           .c_stride = kStrip,
                           .a = panel + begin * kPanel,
                           .a_stride = kPanel,
                           .b = lanes(errors_, begin),
                           .b_stride = kStrip,
                           .rows = rows,
                           .columns = kStrip,
                           .count = end - begin});
  }

  const Feedback& feedback_;
  const float* importance_;
  const GridSpec& spec_;
  const cpu::Kernels& kernels_;
  const int64_t k_, groups_;
  std::vector<float> weights_;                      // [k, kStrip]
  std::vector<float> errors_;                       // [k, kStrip] weight - value
  std::vector<float> scales_, inverses_, offsets_;  // [groups, kStrip]
  std::vector<uint8_t> codes_;                      // [k, kStrip]
  std::vector<float> from_;                         // [kPanel, kStrip]
};

}  // namespace

RoundedRows round_rows(const float* w, int64_t rows, const Feedback& feedback, const float* importance,
                       const GridSpec& spec, const cpu::Kernels& kernels, ThreadPool& pool) {
  const int64_t k = feedback.k(), groups = ceil_div(k, int64_t(spec.group_size));
  RoundedRows out = rows_of(rows, k, groups, spec, true);
  std::vector<std::unique_ptr<Strip>> strips(size_t(pool.num_threads()));
  share(pool, ceil_div(rows, kStrip), [&](int member, int64_t unit) {
    std::unique_ptr<Strip>& mine = strips[size_t(member)];
    if (!mine) mine = std::make_unique<Strip>(feedback, importance, spec, kernels);
    mine->run(w + unit * kStrip * k, unit * kStrip, std::min(kStrip, rows - unit * kStrip), out);
  });
  return out;
}

RoundedRows round_plainly(const float* w, int64_t rows, int64_t k, const GridSpec& spec, ThreadPool& pool) {
  const int64_t groups = ceil_div(k, int64_t(spec.group_size));
  RoundedRows out = rows_of(rows, k, groups, spec, false);
  share(pool, rows, [&](int, int64_t r) {
    std::vector<Grid> grids(static_cast<size_t>(groups));
    plain_row(w + r * k, k, spec, out.codes.data() + r * k, grids.data());
    for (int64_t g = 0; g < groups; ++g) {
      out.scales[size_t(r * groups + g)] = grids[size_t(g)].scale;
      if (spec.offsets) out.offsets[size_t(r * groups + g)] = grids[size_t(g)].offset;
    }
    out.errors[size_t(r)] = error_of(w + r * k, r, k, spec, out);
  });
  return out;
}

}  // namespace llama4rt::calibrate
