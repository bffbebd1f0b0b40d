// Looking at what ops compute, without a word about it in model/: ObservingOps passes every op on to the ops of
// a device and tells an observer before and after each. llama4rt diff compares steps this way. Nothing is
// computed differently: the device's own ops run, in the same order, on the same memory.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ops/device.h"
#include "ops/ops.h"

namespace llama4rt {

// What an op works on. Tensors are views of the device's memory, valid during the call.
struct OpOperand {
  const char* name;  // as ops.h calls it
  Tensor tensor;     // empty where the op was given none
};
struct OpCall {
  const char* op;                      // "linear"; names of ops.h
  std::vector<const Weight*> weights;  // in the order of the op's parameters
  std::vector<OpOperand> outputs;      // written, or added to
  std::vector<OpOperand> inputs;       // only read
};

class OpsObserver {
 public:
  virtual ~OpsObserver() = default;
  virtual void before(const OpCall& /*call*/) {}
  virtual void after(const OpCall& call) = 0;
};

class ObservingOps final : public Ops {
 public:
  // Both outlive it.
  ObservingOps(Ops& ops, OpsObserver& observer, const DeviceTraits& traits)
      : Ops(traits), ops_(ops), observer_(observer) {}

 protected:
  void do_embed(Tensor out, const Weight& table, Tensor ids) override;
  void do_scatter_rows(Tensor x, Tensor rows, Tensor src) override;
  void do_gather_rows(Tensor out, Tensor x, Tensor rows) override;
  void do_rmsnorm(Tensor out, Tensor x, Tensor weight, float eps) override;
  void do_layernorm(Tensor out, Tensor x, Tensor weight, Tensor bias, float eps) override;
  void do_add_bias(Tensor x, Tensor bias) override;
  void do_gelu(Tensor x, Tensor bias) override;
  void do_linear(Tensor out, Tensor x, const Weight& w) override;
  void do_linear_add(Tensor x, Tensor a, const Weight& w) override;
  void do_lora_add(Tensor out, Tensor x, std::span<const LoraRows> adapters) override;
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
  void do_all_gather(Tensor x) override;

 private:
  template <class Run>
  void observe(const OpCall& call, const Run& run) {
    observer_.before(call);
    run();
    observer_.after(call);
  }

  Ops& ops_;
  OpsObserver& observer_;
};

// A device whose ops are observed. Steps are never replayed from a record, so that every op is seen every time.
class ObservingDevice final : public Device {
 public:
  // `observer` outlives the device.
  ObservingDevice(std::unique_ptr<Device> device, OpsObserver& observer)
      : Device(device->traits()), device_(std::move(device)), ops_(device_->ops(), observer, traits()) {}

  Ops& ops() override { return ops_; }
  std::string name() const override { return device_->name(); }
  std::string describe() const override { return device_->describe() + ", observed"; }
  int num_threads() const override { return device_->num_threads(); }
  void make_current() override { device_->make_current(); }

  void* allocate(size_t bytes) override { return device_->allocate(bytes); }
  void deallocate(void* p, size_t bytes) override { device_->deallocate(p, bytes); }
  void copy_to_device(void* dst, const void* src, size_t bytes) override {
    device_->copy_to_device(dst, src, bytes);
  }
  void copy_to_host(void* dst, const void* src, size_t bytes) override {
    device_->copy_to_host(dst, src, bytes);
  }
  void zero(void* p, size_t bytes) override { device_->zero(p, bytes); }
  void upload(void* dst, const void* src, size_t bytes) override { device_->upload(dst, src, bytes); }
  void finish_upload() override { device_->finish_upload(); }
  void reserve_scratch(const ScratchBytes& bytes) override { device_->reserve_scratch(bytes); }
  int64_t free_memory() const override { return device_->free_memory(); }

  void* allocate_staging(size_t bytes) override { return device_->allocate_staging(bytes); }
  void deallocate_staging(void* p) override { device_->deallocate_staging(p); }
  void copy_to_device_async(void* dst, const void* staging, size_t bytes) override {
    device_->copy_to_device_async(dst, staging, bytes);
  }
  void copy_to_host_async(void* staging, const void* src, size_t bytes) override {
    device_->copy_to_host_async(staging, src, bytes);
  }
  uint64_t mark() override { return device_->mark(); }
  void wait_for(uint64_t mark) override { device_->wait_for(mark); }

 private:
  const std::unique_ptr<Device> device_;
  ObservingOps ops_;
};

}  // namespace llama4rt
