// Linear ops: quantises the activations where the weights are integers, cuts the ops into units of work and
// shares them among the threads.
#include <algorithm>
#include <span>

#include "cpu/cpu_ops.h"
#include "weights/layout.h"

namespace llama4rt {
namespace {

using cpu::Linear;

// Activations of a unit stay in the second-level cache while row after row of weights passes.
constexpr int64_t kUnitRowBytes = int64_t(1) << 20;
// Smallest unit worth fetching from the shared list: a few microseconds of memory traffic.
constexpr int64_t kUnitBytes = int64_t(32) << 10;
constexpr int64_t kUnitsPerMember = 16;
// Up to here every member quantises all activations for itself: cheaper than to wait for each other.
constexpr int64_t kPrivateElements = int64_t(16) << 10;

// What a row block costs, in bytes read: more rows than memory-bound weigh by their arithmetic.
int64_t block_cost(const Linear& linear, int64_t rows) {
  return cpu16::block_bytes(linear.weight.kind, linear.weight.k) * ceil_div(rows, int64_t(4));
}

int64_t rows_per_unit(const Linear& linear) {
  const int64_t row_bytes = linear.weight.k * (linear.weight.has_integer_codes() ? 2 : 4);
  const int64_t most = std::max(kUnitRowBytes / row_bytes / cpu::kRowTile, int64_t(1)) * cpu::kRowTile;
  const int64_t parts = ceil_div(linear.rows.count, most);
  return round_up(ceil_div(linear.rows.count, parts), cpu::kRowTile);
}

}  // namespace

void CpuOps::collect_linear(Tensor out, Tensor x, const Weight& w, Finish finish) {
  Linear& linear = linears_.emplace_back();
  linear.weight = w;
  linear.finish = finish;
  linear.rows.count = x.size(0);
  linear.rows.x = x.ptr<const float>();
  linear.rows.x_stride = x.stride0;
  linear.rows.out = out.ptr<float>();
  linear.rows.out_stride = out.stride0;
  linear.rows.out_width = out.size(1);
}

void CpuOps::linear_one(Tensor out, Tensor x, const Weight& w, Finish finish) {
  linears_.clear();
  collect_linear(out, x, w, finish);
  run_linears();
}

void CpuOps::do_linear(Tensor out, Tensor x, const Weight& w) { linear_one(out, x, w, Finish::kStore); }
void CpuOps::do_linear_add(Tensor x, Tensor a, const Weight& w) { linear_one(x, a, w, Finish::kAdd); }
void CpuOps::do_gate_up(Tensor a, Tensor h, const Weight& gate_up) {
  linear_one(a, h, gate_up, Finish::kSwiGlu);
}

// Fills linear_units_ from linears_, or from the first of two chained ones: contiguous row blocks, large
// enough to stream and many enough to share.
void CpuOps::plan_linears(bool chained) {
  linear_units_.clear();
  const std::span<const Linear> planned(linears_.data(), chained ? 1 : linears_.size());
  int64_t total = 0;
  for (const Linear& linear : planned)
    total += block_cost(linear, linear.rows.count) * cpu16::num_blocks(linear.weight.n);
  const int64_t target = std::max(kUnitBytes, total / (kUnitsPerMember * team_.size()));
  for (const Linear& linear : planned) {
    const int64_t num_blocks = cpu16::num_blocks(linear.weight.n), rows = rows_per_unit(linear);
    // Pairs of blocks: gate and up belong together, and tiles come in twos.
    const int64_t blocks =
        std::max(target / (2 * block_cost(linear, std::min(rows, linear.rows.count))), int64_t(1)) * 2;
    for (int64_t row = 0; row < linear.rows.count; row += rows)
      for (int64_t block = 0; block < num_blocks; block += blocks)
        linear_units_.push_back({&linear, block, std::min(num_blocks, block + blocks), row,
                                 std::min(linear.rows.count, row + rows)});
  }
}

// Rows [begin, end) of all linear ops' rows, one after the other.
void CpuOps::quantize_linears(const cpu::QuantizedRows& q, int64_t begin, int64_t end) {
  for (const Linear& linear : linears_) {
    const int64_t first = std::max<int64_t>(0, begin - linear.first_row);
    const int64_t last = std::min(linear.rows.count, end - linear.first_row);
    for (int64_t i = first; i < last; ++i) {
      kernels_.quantize_row(q, linear.first_row + i,
                            linear.rows.x + linear.rows.x_row(i) * linear.rows.x_stride, linear.weight.k,
                            linear.weight.group_size);
      if (linear.first_tile >= 0)
        kernels_.pack_tile_row(q, linear.first_row + i, linear.first_tile * cpu::kRowTile + i,
                               linear.weight.kind);
    }
  }
}

void CpuOps::run_linears(bool chained) {
  if (linears_.empty()) return;
  const Weight& w = linears_[0].weight;
  const int64_t k = w.k;
  const bool bytes = activations_ == Activations::kInt8 && w.has_integer_codes() && w.format().bits == 4;
  cpu::QuantizedRows q;
  int64_t num_rows = 0, num_tiles = 0;
  for (Linear& linear : linears_) {
    linear.first_row = num_rows;
    num_rows += linear.rows.count;
    if (kernels_.pack_tile_row && !bytes && cpu::tiles_fit(w) &&
        linear.rows.count >= kernels_.min_tiled_rows) {
      linear.first_tile = num_tiles;
      num_tiles += ceil_div(linear.rows.count, cpu::kRowTile);
    }
  }
  plan_linears(chained);

  int64_t unit_rows = 0;
  for (const cpu::LinearUnit& t : linear_units_) unit_rows = std::max(unit_rows, t.row_end - t.row_begin);
  const int64_t scratch_bytes = kernels_.linear_scratch_bytes(unit_rows, w.num_groups());
  const auto scratch = [&](int member) {
    return members_[size_t(member)].kernel.get<std::byte>(scratch_bytes);
  };
  const auto run_unit = [&](int member, int64_t i, const cpu::QuantizedRows& rows) {
    cpu::LinearUnit unit = linear_units_[size_t(i)];
    kernels_.linear(unit, rows, scratch(member));
    if (!chained) return;
    unit.linear = &linears_[1];
    kernels_.linear(unit, rows, scratch(member));
  };
  if (!w.has_integer_codes()) {
    team_.share(int64_t(linear_units_.size()), [&](int member, int64_t i) { run_unit(member, i, q); });
  } else {
    q.groups = w.num_groups();
    q.stride = q.groups * w.group_size;
    const auto place_values = [&](cpu::QuantizedRows& rows, cpu::Scratch& memory) {
      if (bytes)
        rows.bytes = memory.get<int8_t>(num_rows * q.stride);
      else
        rows.values = memory.get<int16_t>(num_rows * q.stride);
    };
    if (num_tiles == 0 && num_rows * k <= kPrivateElements) {
      const auto own_rows = [&](int member) {
        Member& m = members_[size_t(member)];
        cpu::QuantizedRows own = q;
        place_values(own, m.values);
        own.scales = m.scales.get<float>(num_rows * q.groups);
        own.sums = m.sums.get<int32_t>(num_rows * q.groups);
        own.totals = m.totals.get<float>(num_rows * q.groups);
        return own;
      };
      team_.share(
          int64_t(linear_units_.size()), [&](int member) { quantize_linears(own_rows(member), 0, num_rows); },
          [&](int member, int64_t i) { run_unit(member, i, own_rows(member)); });
    } else {
      place_values(q, values_);
      q.scales = scales_.get<float>(num_rows * q.groups);
      q.sums = sums_.get<int32_t>(num_rows * q.groups);
      q.totals = totals_.get<float>(num_rows * q.groups);
      q.tiles = tiles_.get<uint8_t>(num_tiles * cpu::kRowTile * 2 * k);
      for_rows(num_rows, k, [&](int64_t begin, int64_t end) { quantize_linears(q, begin, end); });
      team_.share(int64_t(linear_units_.size()), [&](int member, int64_t i) { run_unit(member, i, q); });
    }
  }
}

}  // namespace llama4rt
