// Adapters: two linear ops for each, of the rows that ask for it. All first factors run together, then all second ones:
// the threads meet twice, however many adapters a step has.
#include <algorithm>

#include "cpu/cpu_ops.h"

namespace llama4rt {

void CpuOps::do_lora_add(Tensor out, Tensor x, std::span<const LoraRows> adapters) {
  int64_t width = 0;  // ranks of the widest
  for (const LoraRows& adapter : adapters) width = std::max(width, adapter.factors->a.n);
  const int64_t stride = round_up(width, int64_t(16));
  float* const ranks = lora_ranks_.get<float>(x.size(0) * stride);  // row t belongs to row t of x
  const auto collect = [&](const LoraRows& adapter, const Weight& w, Finish finish) -> cpu::LinearRows& {
    cpu::Linear& linear = linears_.emplace_back();
    linear.weight = w;
    linear.finish = finish;
    linear.rows.count = adapter.rows.size(0);
    linear.rows.picks = adapter.rows.ptr<const int32_t>();
    linear.rows.out_width = w.n;
    return linear.rows;
  };

  linears_.clear();
  for (const LoraRows& adapter : adapters) {
    cpu::LinearRows& rows = collect(adapter, adapter.factors->a, Finish::kStore);
    rows.x = x.ptr<const float>();
    rows.x_stride = x.stride0;
    rows.out = ranks;
    rows.out_stride = stride;
  }
  run_linears();

  linears_.clear();
  for (const LoraRows& adapter : adapters)
    for (const LoraFactors::Output& output : adapter.factors->outputs) {
      for (int64_t i = 0; i < adapter.rows.size(0); ++i) {
        float* const y = ranks + adapter.rows.ptr<const int32_t>()[i] * stride + output.first_rank;
        for (int64_t r = 0; r < output.b.k; ++r) y[r] *= output.scale;
      }
      cpu::LinearRows& rows = collect(adapter, output.b, Finish::kAdd);
      rows.x = ranks + output.first_rank;
      rows.x_stride = stride;
      rows.out = out.ptr<float>() + output.first_column;
      rows.out_stride = out.stride0;
    }
  run_linears();
}

}  // namespace llama4rt
