// What the largest step takes on a device, by running the forward pass once without memory (ops/measure.h):
// the workspace is as large as its peak, scratch as large as the kernels' launchers say. Nothing here repeats
// what the model or a kernel does.
#pragma once

#include <cstdint>

#include "format/weight_source.h"
#include "model/step_shape.h"
#include "ops/device.h"
#include "ops/op_types.h"

namespace llama4rt {

struct StepMemory {
  int64_t workspace = 0;  // activations, and the logits of shape.logit_rows rows
  ScratchBytes scratch;
};

// The text decoder. source: names, kinds and shapes of the weights; their bytes are not read. kv_global,
// kv_local: formats of the two groups of layers.
StepMemory measure_text_step(const WeightSource& source, const DeviceTraits& device, const StepShape& shape,
                             KvKind kv_global, KvKind kv_local);
// The vision tower on `tiles` tiles at once; source.config() has one.
StepMemory measure_vision_step(const WeightSource& source, const DeviceTraits& device, int64_t tiles);
// How many tiles go through the tower at once in a reasonable amount of memory.
int64_t image_tiles_at_once(const WeightSource& source, const DeviceTraits& device);

}  // namespace llama4rt
