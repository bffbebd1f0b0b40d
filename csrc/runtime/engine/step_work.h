// The counts behind StepCost (runtime/speculation/step_cost.h) of one model: what a step of decoding reads and
// multiplies.
#pragma once

#include "format/weight_source.h"
#include "runtime/runner/kv_cache.h"
#include "runtime/speculation/step_cost.h"

namespace llama4rt {

StepWork step_work(const WeightSource& source, const KvCachePlan& kv);

}  // namespace llama4rt
