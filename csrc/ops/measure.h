// Measuring a step without memory and without a device: model/ runs its forward pass once over MeasuringOps,
// whose ops compute nothing. The workspace's peak and the scratch that was noted are then what the largest
// step needs. Pointers are made up and never read.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "ops/device.h"
#include "ops/ops.h"

namespace llama4rt {

// A device of some kind with ops that only note what they need; this class itself notes nothing, for devices
// without scratch.
class MeasuringOps : public Ops {
 public:
  explicit MeasuringOps(const DeviceTraits& traits) : Ops(traits) {}
  // The most that any op so far, or the same op on fewer rows or keys, asks for.
  const ScratchBytes& scratch() const { return most_; }

 protected:
  void note(const ScratchBytes& bytes) {
    most_.values = std::max(most_.values, bytes.values);
    most_.tickets = std::max(most_.tickets, bytes.tickets);
  }

  void do_embed(Tensor, const Weight&, Tensor) override {}
  void do_scatter_rows(Tensor, Tensor, Tensor) override {}
  void do_gather_rows(Tensor, Tensor, Tensor) override {}
  void do_rmsnorm(Tensor, Tensor, Tensor, float) override {}
  void do_layernorm(Tensor, Tensor, Tensor, Tensor, float) override {}
  void do_add_bias(Tensor, Tensor) override {}
  void do_gelu(Tensor, Tensor) override {}
  void do_linear(Tensor, Tensor, const Weight&) override {}
  void do_linear_add(Tensor, Tensor, const Weight&) override {}
  void do_lora_add(Tensor, Tensor, std::span<const LoraRows>) override {}
  void do_gate_up(Tensor, Tensor, const Weight&) override {}
  void do_prepare_qkv(Tensor, Tensor, Tensor, const QkvTransform&, const KvLayer&, Tensor) override {}
  void do_paged_attention(Tensor, Tensor, const KvLayer&, const AttentionBatch&, float) override {}
  void do_rotate_heads(Tensor, Tensor) override {}
  void do_tile_attention(Tensor, Tensor, Tensor, Tensor, int64_t, int, float) override {}
  void do_route(const Routing&, Tensor, Tensor, const Weight&) override {}
  void do_experts_gate_up(Tensor, Tensor, const Weight&, const Routing&) override {}
  void do_experts_down_add(Tensor, Tensor, const Weight&, const Routing&) override {}
  void do_sample(const SampleBatch&, Tensor) override {}

 private:
  ScratchBytes most_;
};

// A device without memory, for measuring. Its traits are those of a device with memory of its own, so that
// nobody looks at what ops would have written.
class MeasuringDevice final : public Device {
 public:
  // kind: of the device that is measured.
  explicit MeasuringDevice(const DeviceTraits& kind)
      : Device(without_memory(kind)),
        ops_(kind.measuring_ops ? kind.measuring_ops(traits()) : std::make_unique<MeasuringOps>(traits())) {}

  Ops& ops() override { return *ops_; }
  const ScratchBytes& scratch() const { return ops_->scratch(); }
  std::string name() const override { return "measuring"; }
  std::string describe() const override { return "no device: measures what a step needs"; }

  // An address for tensors that are never read.
  static void* no_memory() { return reinterpret_cast<void*>(uintptr_t(4096)); }
  void* allocate(size_t) override { return no_memory(); }
  void deallocate(void*, size_t) override {}
  void copy_to_device(void*, const void*, size_t) override {}
  void copy_to_host(void* dst, const void*, size_t bytes) override { std::memset(dst, 0, bytes); }

 private:
  static DeviceTraits without_memory(DeviceTraits kind) {
    kind.has_own_memory = true;
    return kind;
  }

  std::unique_ptr<MeasuringOps> ops_;
};

}  // namespace llama4rt
