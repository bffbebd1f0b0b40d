// CudaOps: ops that work row by row.
#include "cuda/cuda_ops.h"
#include "cuda/kernels/rows.h"

namespace llama4rt {

void CudaOps::do_embed(Tensor out, const Weight& table, Tensor ids) {
  LLAMA4RT_CHECK(kInternal, table.kind == WeightKind::kBF16, "cuda: embed of a ",
                 weight_kind_name(table.kind), " table has no kernel; only bf16 has");
  cuda::run_embed(stream(), out, table, ids);
}
void CudaOps::do_scatter_rows(Tensor x, Tensor rows, Tensor src) {
  cuda::run_scatter_rows(stream(), x, rows, src);
}
void CudaOps::do_gather_rows(Tensor out, Tensor x, Tensor rows) {
  cuda::run_gather_rows(stream(), out, x, rows);
}
void CudaOps::do_rmsnorm(Tensor out, Tensor x, Tensor weight, float eps) {
  cuda::run_rmsnorm(stream(), out, x, weight, eps);
}
void CudaOps::do_layernorm(Tensor out, Tensor x, Tensor weight, Tensor bias, float eps) {
  cuda::run_layernorm(stream(), out, x, weight, bias, eps);
}
void CudaOps::do_add_bias(Tensor x, Tensor bias) { cuda::run_add_bias(stream(), x, bias); }
void CudaOps::do_gelu(Tensor x, Tensor bias) { cuda::run_gelu(stream(), x, bias); }

}  // namespace llama4rt
