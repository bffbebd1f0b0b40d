// CudaOps: products with one matrix.
#include "cuda/cuda_ops.h"
#include "cuda/kernels/linear.h"
#include "cuda/kernels/linear_rows.h"

namespace llama4rt {

void CudaOps::multiply(const char* op, Tensor out, Tensor x, const Weight& w, Finish finish) {
  if (multiply_rows({.out = out, .rows = x.size(0), .finish = finish}, x, w)) return;
  LLAMA4RT_CHECK(kInternal, cuda::LinearDecode::supports(w), "cuda: ", op, " of a ", weight_kind_name(w.kind),
                 " weight with zero points, or this large, has no kernel");
  void* const partials = scratch(cuda::LinearDecode::scratch_bytes(w, x.size(0)));
  uint32_t* const counters = tickets(cuda::LinearDecode::ticket_bytes(w));
  cuda::LinearDecode::run(stream(), out, x, w, finish, partials, counters);
}

void CudaOps::do_linear(Tensor out, Tensor x, const Weight& w) {
  multiply("linear", out, x, w, Finish::kStore);
}
void CudaOps::do_linear_add(Tensor x, Tensor a, const Weight& w) {
  multiply("linear_add", x, a, w, Finish::kAdd);
}
void CudaOps::do_gate_up(Tensor a, Tensor h, const Weight& gate_up) {
  multiply("gate_up", a, h, gate_up, Finish::kSwiGlu);
}

}  // namespace llama4rt
