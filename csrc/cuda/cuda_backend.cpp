#include "cuda/cuda_backend.h"

#include "cuda/kernels/kernels.h"

namespace llama4rt {
namespace {

[[noreturn]] void not_there(const char* op) {
  throw Error(ErrorKind::kInternal,
              error_text("cuda: ", op, " has no kernel yet; use device=\"cpu\" to run this model"));
}

}  // namespace

CudaBackend::CudaBackend(int device) : device_(device) {
  cuda::set_device(device);
  info_ = cuda::device_info(device);
}

std::string CudaBackend::name() const { return error_text("cuda:", device_); }
std::string CudaBackend::describe() const {
  return error_text(name(), ", ", info_.name, ", sm_", info_.major, info_.minor, ", ", info_.multiprocessors,
                    " multiprocessors");
}

void* CudaBackend::allocate(size_t bytes) { return cuda::device_malloc(bytes); }
void CudaBackend::deallocate(void* p, size_t) { cuda::device_free(p); }
void CudaBackend::copy_to_device(void* dst, const void* src, size_t bytes) {
  if (bytes == 0) return;
  stream_.copy_to_device(dst, src, bytes);
  stream_.synchronize();
}
void CudaBackend::copy_to_host(void* dst, const void* src, size_t bytes) {
  if (bytes > 0) stream_.copy_to_host(dst, src, bytes);
  stream_.synchronize();
}

void CudaBackend::reserve_scratch(size_t partial_bytes, size_t ticket_bytes) {
  if (partials_.size() >= partial_bytes && tickets_.size() >= ticket_bytes) return;
  stream_.synchronize();  // kernels may still use the old buffers
  if (partials_.size() < partial_bytes) partials_ = cuda::DeviceBuffer(partial_bytes);
  if (tickets_.size() < ticket_bytes) {
    tickets_ = cuda::DeviceBuffer(ticket_bytes);
    stream_.fill(tickets_.data(), 0, ticket_bytes);
  }
}

void CudaBackend::do_rmsnorm(Tensor out, Tensor x, Tensor weight, float eps) {
  cuda::run_rmsnorm(stream_, out, x, weight, eps);
}

void CudaBackend::multiply(const char* op, Tensor out, Tensor x, const Weight& w, int finish) {
  LLAMA4RT_CHECK(kInternal, cuda::LinearInt4Decode::supports(w), "cuda: ", op, " of a ",
                 weight_kind_name(w.kind), " weight has no kernel yet; only int4 has");
  const size_t tickets = cuda::LinearInt4Decode::ticket_bytes(w, x.size(0));
  reserve_scratch(cuda::LinearInt4Decode::partial_bytes(w, x.size(0)), tickets);
  cuda::LinearInt4Decode::run(stream_, out, x, w, cuda::Finish(finish), partials_.data(), tickets_.data());
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

void CudaBackend::do_embed(Tensor, const Weight&, Tensor) { not_there("embed"); }
void CudaBackend::do_scatter_rows(Tensor, Tensor, Tensor) { not_there("scatter_rows"); }
void CudaBackend::do_gather_rows(Tensor, Tensor, Tensor) { not_there("gather_rows"); }
void CudaBackend::do_layernorm(Tensor, Tensor, Tensor, Tensor, float) { not_there("layernorm"); }
void CudaBackend::do_add_bias(Tensor, Tensor) { not_there("add_bias"); }
void CudaBackend::do_gelu(Tensor, Tensor) { not_there("gelu"); }
void CudaBackend::do_rotate_heads(Tensor, Tensor) { not_there("rotate_heads"); }
void CudaBackend::do_tile_attention(Tensor, Tensor, Tensor, Tensor, int64_t, int, float) {
  not_there("tile_attention");
}
void CudaBackend::do_prepare_qkv(Tensor, Tensor, Tensor, const QkvTransform&, const KvLayer&, Tensor) {
  not_there("prepare_qkv");
}
void CudaBackend::do_paged_attention(Tensor, Tensor, const KvLayer&, const AttentionBatch&, float) {
  not_there("paged_attention");
}
void CudaBackend::do_route(const Routing&, Tensor, Tensor, const Weight&) { not_there("route"); }
void CudaBackend::do_experts_gate_up(Tensor, Tensor, const Weight&, const Routing&) {
  not_there("experts_gate_up");
}
void CudaBackend::do_experts_down_add(Tensor, Tensor, const Weight&, const Routing&) {
  not_there("experts_down_add");
}

std::unique_ptr<Backend> make_cuda_backend(int device) { return std::make_unique<CudaBackend>(device); }

}  // namespace llama4rt
