#include "runtime/engine/step_work.h"

#include <algorithm>
#include <vector>

#include "model/shape.h"

namespace llama4rt {

StepWork step_work(const WeightSource& source, const KvCachePlan& kv) {
  const ModelConfig& config = source.config();
  StepWork work;
  for (const TensorSpec& spec : text_tensors(config)) {
    if (spec.is_plain() || spec.role == TensorRole::kEmbed) continue;
    const Weight weight = source.weight(spec.name);
    const auto macs = double(spec.experts) * double(spec.n) * double(spec.k);
    // Scales of 16 bits; other kinds of them change a few percent, and the cost of a byte is learnt.
    const double bits = weight.format().bits + (weight.group_size > 0 ? 16.0 / weight.group_size : 0.0);
    if (spec.role == TensorRole::kExperts) {
      work.num_experts = double(spec.experts);
      work.expert_bytes += macs * bits / 8;
      work.row_macs += macs * double(config.num_experts_per_tok) / double(spec.experts);
    } else {
      work.shared_bytes += macs * bits / 8;
      work.row_macs += macs;
    }
  }
  work.experts_per_token = double(std::max<int64_t>(config.num_experts_per_tok, 1));
  const double group_bytes[] = {double(kv.global_block_bytes) / kv.block_size,
                                double(kv.local_block_bytes) / kv.block_size};
  work.kv_bytes = group_bytes[0] + group_bytes[1];
  if (work.kv_bytes > 0) work.local_share = group_bytes[1] / work.kv_bytes;
  // A query meets each key and value once.
  work.kv_macs =
      2.0 * double(config.chunked_layers.size()) * double(config.num_attention_heads * config.head_dim);
  work.local_context = double(kv.attention_chunk);
  return work;
}

}  // namespace llama4rt
