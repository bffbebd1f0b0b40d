// DeviceReference: the reference with memory of its own, the emulated device's, and weights in the
// layout for CUDA. With it the runtime's way of using a GPU (weights sent there, arrays of a step in one
// block, padded decode steps, logits fetched) can be held to the CPU bit for bit, whatever the kernels round.
#pragma once

#include <cstring>
#include <map>
#include <string>

#include "reference/reference_ops.h"
#include "simt_emulator/device_memory.h"
#include "test.h"

namespace llama4rt::test {

// Notes what ops are given, while somebody listens.
class NotingOps final : public ReferenceOps {
 public:
  using ReferenceOps::ReferenceOps;
  std::string* calls = nullptr;

 private:
  void note(const Tensor& t) {
    if (calls) *calls += error_text(t.data, " ", t.describe(), "; ");
  }
  void do_embed(Tensor out, const Weight& table, Tensor ids) override {
    note(out), note(ids);
    ReferenceOps::do_embed(out, table, ids);
  }
  void do_gather_rows(Tensor out, Tensor x, Tensor rows) override {
    note(out), note(x), note(rows);
    ReferenceOps::do_gather_rows(out, x, rows);
  }
  void do_linear(Tensor out, Tensor x, const Weight& w) override {
    note(out), note(x);
    ReferenceOps::do_linear(out, x, w);
  }
  void do_prepare_qkv(Tensor q, Tensor k, Tensor v, const QkvTransform& transform, const KvLayer& kv,
                      Tensor slot_mapping) override {
    note(q), note(transform.rope), note(transform.q_scale), note(slot_mapping);
    ReferenceOps::do_prepare_qkv(q, k, v, transform, kv, slot_mapping);
  }
  void do_paged_attention(Tensor out, Tensor q, const KvLayer& kv, const AttentionBatch& b,
                          float scale) override {
    if (calls)
      *calls += error_text(b.num_seqs, " ", b.query_start, " ", b.first_position, " ", b.kv_begin, " ",
                           b.block_table, " ", b.max_blocks, " ", b.max_query_len, "; ");
    ReferenceOps::do_paged_attention(out, q, kv, b, scale);
  }
};

class DeviceReference final : public Device {
 public:
  // `async`: the runtime is to submit steps ahead and to leave sampling to the device.
  explicit DeviceReference(bool async = false)
      : Device({.layout = Layout::kCudaTile,
                .has_own_memory = true,
                .runs_async = async,
                .samples = async,
                .gpu_kv = true}),
        ops_(traits()) {}
  Ops& ops() override { return ops_; }
  std::string name() const override { return "cuda:0"; }
  std::string describe() const override { return "the reference with memory of its own"; }
  void* allocate(size_t bytes) override { return simt::device_allocate(bytes); }
  void deallocate(void* p, size_t) override { simt::device_free(p); }
  void copy_to_device(void* dst, const void* src, size_t bytes) override {
    simt::live_allocation(dst, bytes, "copy to the device");
    std::memcpy(dst, src, bytes);
  }
  void copy_to_host(void* dst, const void* src, size_t bytes) override {
    simt::live_allocation(src, bytes, "copy to the host");
    std::memcpy(dst, src, bytes);
  }
  int64_t free_memory() const override { return int64_t(4) << 30; }

  // Counts the steps that could be replayed, and checks that they could: ops get what they got the last time.
  void run_captured(uint64_t key, const std::function<void()>& submit) override {
    std::string calls;
    ops_.calls = &calls;
    submit();
    ops_.calls = nullptr;
    CHECK(!calls.empty());
    const auto [at, first] = recorded_.emplace(key, calls);
    if (!first) CHECK_EQ(at->second, calls);
    ++runs_;
  }
  int num_keys() const { return int(recorded_.size()); }
  int num_runs() const { return runs_; }

 private:
  NotingOps ops_;
  simt::HeapAccess open_;  // ops run here and now
  std::map<uint64_t, std::string> recorded_;
  int runs_ = 0;
};

}  // namespace llama4rt::test
