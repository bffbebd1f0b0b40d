// The CUDA backend. It has the ops whose kernels exist; every other op throws an Error that names it, so that
// nothing silently runs elsewhere. docs/testing-without-a-gpu.md lists what is missing.
//
// One stream. Ops return when their kernels are submitted; copies wait. The same class runs on a GPU and in
// tests/simt_emulator, which replaces csrc/cuda/runtime.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "cuda/cuda_upload.h"
#include "cuda/runtime.h"
#include "ops/backend.h"

namespace llama4rt {

namespace cuda {
struct RowsProduct;
}

// Throws for an op without a kernel, naming it.
[[noreturn]] void no_cuda_kernel(const char* op);

// Members are defined by topic: cuda_backend.cpp (memory), cuda_rows.cpp, cuda_products.cpp,
// cuda_route.cpp, cuda_experts.cpp, cuda_many_rows.cpp, cuda_attention.cpp, cuda_tiles.cpp,
// cuda_sampling.cpp.
class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int device);

  std::string name() const override;      // "cuda:0"
  std::string describe() const override;  // "cuda:0, NVIDIA H200, sm_90, 132 multiprocessors"
  Layout matrix_layout() const override { return Layout::kCudaTile; }

  void enter_thread() override;
  void* allocate(size_t bytes) override;
  void deallocate(void* p, size_t bytes) override;
  void copy_to_device(void* dst, const void* src, size_t bytes) override;
  void copy_to_host(void* dst, const void* src, size_t bytes) override;
  bool host_memory() const override { return false; }
  void upload(void* dst, const void* src, size_t bytes) override;
  void finish_upload() override;
  // LLAMA4RT_CUDA_AHEAD=0 says no.
  bool works_behind() const override;
  void* allocate_staging(size_t bytes) override { return cuda::pinned_malloc(bytes); }
  void deallocate_staging(void* p) override { cuda::pinned_free(p); }
  void send(void* dst, const void* staging, size_t bytes) override {
    stream_.copy_to_device(dst, staging, bytes);
  }
  void fetch(void* staging, const void* src, size_t bytes) override {
    stream_.copy_to_host(staging, src, bytes);
  }
  uint64_t mark() override;
  void wait_for(uint64_t mark) override { marks_[mark % kMarks].synchronize(); }
  void zero(void* p, size_t bytes) override { stream_.fill(p, 0, bytes); }
  void reserve_scratch(const ScratchBytes& bytes) override;
  int64_t free_memory() const override { return int64_t(cuda::free_memory()); }

  // The first run of a key is direct, so that scratch has grown and kernels are loaded; the second is
  // recorded.
  void run_captured(uint64_t key, const std::function<void()>& submit) override;
  void forget_captured() override;
  int num_graphs() const { return int(graphs_.size()); }
  ScratchBytes scratch_bytes() const { return {int64_t(scratch_.size()), int64_t(tickets_.size())}; }
  bool samples_on_device() const override { return true; }

 private:
  void do_embed(Tensor out, const Weight& table, Tensor ids) override;
  void do_scatter_rows(Tensor x, Tensor rows, Tensor src) override;
  void do_gather_rows(Tensor out, Tensor x, Tensor rows) override;
  void do_rmsnorm(Tensor out, Tensor x, Tensor weight, float eps) override;
  void do_layernorm(Tensor out, Tensor x, Tensor weight, Tensor bias, float eps) override;
  void do_add_bias(Tensor x, Tensor bias) override;
  void do_gelu(Tensor x, Tensor bias) override;
  void do_linear(Tensor out, Tensor x, const Weight& w) override;
  void do_linear_add(Tensor x, Tensor a, const Weight& w) override;
  void do_gate_up(Tensor a, Tensor h, const Weight& gate_up) override;
  void do_prepare_qkv(Tensor q, Tensor k, Tensor v, const QkvTransform& transform, const KvLayer& kv,
                      Tensor slot_mapping) override;
  void do_paged_attention(Tensor out, Tensor q, const KvLayer& kv, const AttentionBatch& batch,
                          float scale) override;
  void do_rotate_heads(Tensor x, Tensor rope) override;
  void do_tile_attention(Tensor out, Tensor q, Tensor k, Tensor v, int64_t rows_per_tile, int num_heads,
                         float scale) override;
  void do_route(const Routing& routing, Tensor logits, Tensor h, const Weight& router) override;
  void do_experts_gate_up(Tensor a, Tensor h, const Weight& gate_up, const Routing& routing) override;
  void do_experts_down_add(Tensor x, Tensor a, const Weight& down, const Routing& routing) override;
  void do_moe_gate_up(Tensor a, Tensor shared_a, Tensor h, const Weight& experts, const Weight& shared,
                      const Routing& routing) override;
  void do_moe_down_add(Tensor x, Tensor a, Tensor shared_a, const Weight& experts, const Weight& shared,
                       const Routing& routing) override;
  void do_sample(const SampleBatch& batch, Tensor logits) override;

  void multiply(const char* op, Tensor out, Tensor x, const Weight& w, int finish);
  // Both products of routed experts, with the shared expert in the same launch where it is given.
  void experts_gate_up_with(Tensor a, Tensor h, const Weight& gate_up, const Routing& routing,
                            Tensor shared_a, const Weight& shared);
  void experts_down_add_with(Tensor x, Tensor a, const Weight& down, const Routing& routing, Tensor shared_a,
                             const Weight& shared);
  struct ExpertsMemory {
    void* scratch;
    uint32_t* tickets;
  };
  // Throws when no kernel takes these experts.
  ExpertsMemory experts_memory(const char* op, const Weight& experts, int64_t tokens, const Routing& routing,
                               bool shared);
  // Whether there are too many rows for linear_decode.
  static bool many_rows(int64_t rows, const Weight& w);
  // Products of many rows (cuda_many_rows.cpp); false, and nothing done, when there are too few for that, or
  // no kernel takes this weight. Row i of x is row slots[i] / slots_per_row. With y_bytes the product goes to
  // the start of scratch, where so many bytes are kept, and not to product.out.
  bool multiply_rows(cuda::RowsProduct product, Tensor x, const Weight& w, int64_t slots_per_row = 1,
                     size_t y_bytes = 0);
  bool experts_gate_up_rows(Tensor a, Tensor h, const Weight& gate_up, const Routing& routing);
  bool experts_down_add_rows(Tensor x, Tensor a, const Weight& down, const Routing& routing);
  // Memory of one op call, 256-byte aligned and not initialised. Every op gets the same bytes: ops run in
  // order, so the next may overwrite what one leaves. Grows when more is asked for than ever before, after
  // waiting for the stream; not while a graph is captured, because its kernels keep the pointer.
  void* scratch(size_t bytes);
  // Counters with which blocks find out which of them is last: zero when a kernel starts, and every kernel
  // leaves them zero. Grows likewise.
  uint32_t* tickets(size_t bytes);
  void grow(cuda::DeviceBuffer& buffer, size_t bytes, const char* what);

  int device_;
  cuda::DeviceInfo info_;
  cuda::Stream stream_;
  bool capturing_ = false;
  std::unique_ptr<Uploader> uploader_;  // while weights come in
  cuda::DeviceBuffer scratch_, tickets_;
  std::unordered_map<uint64_t, std::unique_ptr<cuda::Graph>> graphs_;  // null: seen once
  // Mark n is an event in marks_[n % kMarks]. Waiting for a mark more than 16 behind the latest waits for a
  // newer one.
  static constexpr uint64_t kMarks = 16;
  cuda::Event marks_[kMarks];
  uint64_t num_marks_ = 0;
};

}  // namespace llama4rt
