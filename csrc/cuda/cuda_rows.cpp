// CudaBackend: ops that work row by row.
#include "cuda/cuda_backend.h"
#include "cuda/kernels/rows.h"

namespace llama4rt {

void CudaBackend::do_embed(Tensor out, const Weight& table, Tensor ids) {
  LLAMA4RT_CHECK(kInternal, table.kind == WeightKind::kBF16, "cuda: embed of a ",
                 weight_kind_name(table.kind), " table has no kernel; only bf16 has");
  cuda::run_embed(stream_, out, table, ids);
}
void CudaBackend::do_scatter_rows(Tensor x, Tensor rows, Tensor src) {
  cuda::run_scatter_rows(stream_, x, rows, src);
}
void CudaBackend::do_gather_rows(Tensor out, Tensor x, Tensor rows) {
  cuda::run_gather_rows(stream_, out, x, rows);
}
void CudaBackend::do_rmsnorm(Tensor out, Tensor x, Tensor weight, float eps) {
  cuda::run_rmsnorm(stream_, out, x, weight, eps);
}
void CudaBackend::do_layernorm(Tensor out, Tensor x, Tensor weight, Tensor bias, float eps) {
  cuda::run_layernorm(stream_, out, x, weight, bias, eps);
}
void CudaBackend::do_add_bias(Tensor x, Tensor bias) { cuda::run_add_bias(stream_, x, bias); }
void CudaBackend::do_gelu(Tensor x, Tensor bias) { cuda::run_gelu(stream_, x, bias); }

}  // namespace llama4rt
