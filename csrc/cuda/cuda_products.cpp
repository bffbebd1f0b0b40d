// CudaBackend: products with one matrix.
#include "cuda/cuda_backend.h"
#include "cuda/kernels/linear.h"
#include "cuda/kernels/linear_rows.h"

namespace llama4rt {

void CudaBackend::multiply(const char* op, Tensor out, Tensor x, const Weight& w, int finish) {
  if (multiply_rows({.out = out, .rows = x.size(0), .finish = cuda::Finish(finish)}, x, w)) return;
  LLAMA4RT_CHECK(kInternal, cuda::LinearDecode::supports(w), "cuda: ", op, " of a ", weight_kind_name(w.kind),
                 " weight with zero points, or this large, has no kernel");
  void* const partials = scratch(cuda::LinearDecode::scratch_bytes(w, x.size(0)));
  uint32_t* const counters = tickets(cuda::LinearDecode::ticket_bytes(w));
  cuda::LinearDecode::run(stream_, out, x, w, cuda::Finish(finish), partials, counters);
}

void CudaBackend::do_linear(Tensor out, Tensor x, const Weight& w) {
  multiply("linear", out, x, w, int(cuda::Finish::kStore));
}
void CudaBackend::do_linear_add(Tensor x, Tensor a, const Weight& w) {
  multiply("linear_add", x, a, w, int(cuda::Finish::kAdd));
}
void CudaBackend::do_gate_up(Tensor a, Tensor h, const Weight& gate_up) {
  multiply("gate_up", a, h, gate_up, int(cuda::Finish::kSwiGlu));
}

}  // namespace llama4rt
