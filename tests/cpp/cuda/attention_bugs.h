// One small batch for planted bugs of the attention kernels.
#pragma once

#include "cuda/attention_harness.h"
#include "cuda/kernels/attention_args.h"
#include "cuda/launch.h"
#include "cuda/teeth.h"

namespace llama4rt::test {
// Blocks of 48 keys, which splits and tiles do not respect; a sequence that ends with its block, and a later
// chunk with a run of several tokens.
inline cases::AttentionCase small_batch(int64_t queries) {
  return {.num_kv_heads = 2,
          .group = 5,
          .head_dim = 32,
          .block_size = 48,
          .kv_format = KvKind::kBF16,
          .sequences = {{.first_position = 624 - queries, .length = queries},
                        {.kv_begin = 96, .first_position = 131, .length = queries}}};
}

// Args is a bug's own copy of AttentionArgs.
template <class Args>
Args copy_args(const cuda::AttentionArgs& a) {
  return {.out = a.out,
          .q = a.q,
          .kv = a.kv,
          .query_start = a.query_start,
          .first_position = a.first_position,
          .kv_begin = a.kv_begin,
          .block_table = a.block_table,
          .states = a.states,
          .tickets = a.tickets,
          .out_stride = a.out_stride,
          .q_stride = a.q_stride,
          .q_dim = a.q_dim,
          .group = a.group,
          .max_blocks = a.max_blocks,
          .max_splits = a.max_splits,
          .state_rows = a.state_rows,
          .rows_per_tile = a.rows_per_tile,
          .scale = a.scale};
}

class AttentionRun {
 public:
  explicit AttentionRun(const cases::AttentionCase& batch)
      : world_(rng_, batch), expected_(world_.expected(true)) {}

  template <class Config, class Args>
  bool decode_is_right(void (*kernel)(Args)) {
    // Two blocks along the keys, so that one takes a second split; two runs.
    constexpr int kRows = 10, kHeads = 2, kSequences = 2, kSplits = 3;
    const cuda::DeviceBuffer states(size_t(kSequences * kHeads * kSplits * kRows * (32 + 2) * 4));
    const cuda::DeviceBuffer tickets(size_t(kSequences * kHeads * 4));
    world_.stream().fill(tickets.data(), 0, tickets.size());
    return is_right([&](const cuda::AttentionArgs& shared) {
      cuda::AttentionArgs args = shared;
      args.states = states.as<float>();
      args.tickets = tickets.as<uint32_t>();
      args.max_splits = kSplits;
      args.state_rows = kRows;
      for (int i = 0; i < 2; ++i) {
        const int64_t last_row = world_.q().rows() - 1;
        world_.stream().fill(args.out, 0xff, size_t(last_row * args.out_stride + world_.q().columns()) * 4);
        cuda::launch("attention_decode", kernel,
                     {.grid_x = kHeads,
                      .grid_y = kSequences,
                      .grid_z = 2,
                      .threads = Config::kThreads,
                      .dynamic_shared = Config::kSharedBytes},
                     world_.stream(), copy_args<Args>(args));
      }
    });
  }
  template <class Config, class Args>
  bool hopper_is_right(void (*kernel)(Args)) {
    return is_right([&](const cuda::AttentionArgs& args) {
      cuda::launch("attention_hopper", kernel,
                   {.threads = Config::kThreads, .dynamic_shared = Config::kSharedBytes}, world_.stream(),
                   copy_args<Args>(args));
    });
  }
  template <class Config, class Args>
  bool prefill_is_right(void (*kernel)(Args)) {
    return is_right([&](const cuda::AttentionArgs& args) {
      cuda::launch("attention_prefill", kernel,
                   {.grid_x = 2,
                    .grid_y = 2,
                    .grid_z = 2,
                    .threads = Config::kThreads,
                    .dynamic_shared = Config::kSharedBytes},
                   world_.stream(), copy_args<Args>(args));
    });
  }

 private:
  template <class Start>
  bool is_right(const Start& start) {
    const Matrix out =
        world_.on_device(0, world_.q().rows(), [&](Tensor to, Tensor q, const AttentionBatch& batch) {
          start(cuda::attention_args({to, q, world_.kv().device(), batch, world_.scale()}));
          world_.stream().synchronize();
        });
    return out.intact() && worst_error(out, expected_) < 0x1p-7;
  }

  Rng rng_{35};
  AttentionWorld world_;
  AttentionWorld::Expected expected_;
};

}  // namespace llama4rt::test
