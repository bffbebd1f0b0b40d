// Matrix products: quantises the activations where the weights are integers, cuts the products into tasks and
// shares them among the threads.
#include <algorithm>
#include <span>

#include "cpu/cpu_ops.h"
#include "format/layout.h"

namespace llama4rt {
namespace {

using cpu::Product;

// Activations of a task stay in the second-level cache while row after row of weights passes.
constexpr int64_t kTaskRowBytes = int64_t(1) << 20;
// Smallest unit worth fetching from the shared list: a few microseconds of memory traffic.
constexpr int64_t kTaskBytes = int64_t(32) << 10;
constexpr int64_t kTasksPerMember = 16;
// Up to here every member quantises all activations for itself: cheaper than to wait for each other.
constexpr int64_t kPrivateElements = int64_t(16) << 10;

// What a row block costs, in bytes read: more rows than memory-bound weigh by their arithmetic.
int64_t block_cost(const Product& p, int64_t rows) {
  return cpu16::block_bytes(p.weight.kind, p.weight.k) * ceil_div(rows, int64_t(4));
}

int64_t rows_per_task(const Product& p) {
  const int64_t row_bytes = p.weight.k * (p.weight.quantized() ? 2 : 4);
  const int64_t most = std::max(kTaskRowBytes / row_bytes / cpu::kRowTile, int64_t(1)) * cpu::kRowTile;
  const int64_t parts = ceil_div(p.rows.count, most);
  return round_up(ceil_div(p.rows.count, parts), cpu::kRowTile);
}

}  // namespace

void CpuOps::add_product(Tensor out, Tensor x, const Weight& w, Finish finish) {
  Product& p = products_.emplace_back();
  p.weight = w;
  p.finish = finish;
  p.rows.count = x.size(0);
  p.rows.x = x.ptr<const float>();
  p.rows.x_stride = x.stride0;
  p.rows.out = out.ptr<float>();
  p.rows.out_stride = out.stride0;
  p.rows.out_width = out.size(1);
}

void CpuOps::multiply_one(Tensor out, Tensor x, const Weight& w, Finish finish) {
  products_.clear();
  add_product(out, x, w, finish);
  run_products();
}

void CpuOps::do_linear(Tensor out, Tensor x, const Weight& w) { multiply_one(out, x, w, Finish::kStore); }
void CpuOps::do_linear_add(Tensor x, Tensor a, const Weight& w) { multiply_one(x, a, w, Finish::kAdd); }
void CpuOps::do_gate_up(Tensor a, Tensor h, const Weight& gate_up) {
  multiply_one(a, h, gate_up, Finish::kSwiGlu);
}

// Fills tasks_ from products_, or from the first of two chained ones: contiguous row blocks, large enough to
// stream and many enough to share.
void CpuOps::plan_products(bool chained) {
  tasks_.clear();
  const std::span<const Product> planned(products_.data(), chained ? 1 : products_.size());
  int64_t total = 0;
  for (const Product& p : planned) total += block_cost(p, p.rows.count) * cpu16::num_blocks(p.weight.n);
  const int64_t target = std::max(kTaskBytes, total / (kTasksPerMember * team_.size()));
  for (const Product& p : planned) {
    const int64_t num_blocks = cpu16::num_blocks(p.weight.n), rows = rows_per_task(p);
    // Pairs of blocks: gate and up belong together, and tiles come in twos.
    const int64_t blocks =
        std::max(target / (2 * block_cost(p, std::min(rows, p.rows.count))), int64_t(1)) * 2;
    for (int64_t row = 0; row < p.rows.count; row += rows)
      for (int64_t block = 0; block < num_blocks; block += blocks)
        tasks_.push_back(
            {&p, block, std::min(num_blocks, block + blocks), row, std::min(p.rows.count, row + rows)});
  }
}

// Rows [begin, end) of all products' rows, one after the other.
void CpuOps::quantize_products(const cpu::QuantizedRows& q, int64_t begin, int64_t end) {
  for (const Product& p : products_) {
    const int64_t first = std::max<int64_t>(0, begin - p.first_row);
    const int64_t last = std::min(p.rows.count, end - p.first_row);
    for (int64_t i = first; i < last; ++i) {
      kernels_.quantize_row(q, p.first_row + i, p.rows.x + p.rows.x_row(i) * p.rows.x_stride, p.weight.k,
                            p.weight.group_size);
      if (p.first_tile >= 0)
        kernels_.split_row(q, p.first_row + i, p.first_tile * cpu::kRowTile + i, p.weight.kind);
    }
  }
}

void CpuOps::run_products(bool chained) {
  if (products_.empty()) return;
  const Weight& w = products_[0].weight;
  const int64_t k = w.k;
  const bool bytes = activations_ == Activations::kInt8 && w.kind == WeightKind::kInt4;
  cpu::QuantizedRows q;
  int64_t num_rows = 0, num_tiles = 0;
  for (Product& p : products_) {
    p.first_row = num_rows;
    num_rows += p.rows.count;
    if (kernels_.split_row && !bytes && cpu::tiles_fit(w) && p.rows.count >= kernels_.min_tiled_rows) {
      p.first_tile = num_tiles;
      num_tiles += ceil_div(p.rows.count, cpu::kRowTile);
    }
  }
  plan_products(chained);

  int64_t task_rows = 0;
  for (const cpu::ProductTask& t : tasks_) task_rows = std::max(task_rows, t.row_end - t.row_begin);
  const int64_t scratch_bytes = kernels_.product_scratch_bytes(task_rows);
  const auto scratch = [&](int member) {
    return members_[size_t(member)].kernel.get<std::byte>(scratch_bytes);
  };
  const auto multiply = [&](int member, int64_t i, const cpu::QuantizedRows& rows) {
    cpu::ProductTask task = tasks_[size_t(i)];
    kernels_.multiply(task, rows, scratch(member));
    if (!chained) return;
    task.product = &products_[1];
    kernels_.multiply(task, rows, scratch(member));
  };
  if (!w.quantized()) {
    team_.share(int64_t(tasks_.size()), [&](int member, int64_t i) { multiply(member, i, q); });
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
        return own;
      };
      team_.share(
          int64_t(tasks_.size()), [&](int member) { quantize_products(own_rows(member), 0, num_rows); },
          [&](int member, int64_t i) { multiply(member, i, own_rows(member)); });
    } else {
      place_values(q, values_);
      q.scales = scales_.get<float>(num_rows * q.groups);
      q.sums = sums_.get<int32_t>(num_rows * q.groups);
      q.tiles = tiles_.get<uint8_t>(num_tiles * cpu::kRowTile * 2 * k);
      for_rows(num_rows, k, [&](int64_t begin, int64_t end) { quantize_products(q, begin, end); });
      team_.share(int64_t(tasks_.size()), [&](int member, int64_t i) { multiply(member, i, q); });
    }
  }
}

}  // namespace llama4rt
