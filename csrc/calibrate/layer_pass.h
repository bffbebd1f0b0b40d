// LayerPass: runs one layer over a whole calibration text, by the decoder and the ops of the CPU that will run the engine
// file, and shows a visitor the inputs of every linear before it is computed.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "calibrate/layer_store.h"
#include "calibrate/linear_inputs.h"
#include "model/weights.h"
#include "ops/device.h"
#include "ops/observe.h"

namespace llama4rt::calibrate {

class LinearVisitor {
 public:
  virtual ~LinearVisitor() = default;
  // name: in the model of one layer, "layers.0.attn.qkv". What the store's matrix of this name is afterwards, the layer
  // computes with.
  virtual void visit(const std::string& name, const LinearInputs& inputs) = 0;
};

// What a pass over texts of these lengths takes beside the store, in bytes.
struct PassMemory {
  int64_t activations = 0;  // the residual stream and what a layer makes of it
  int64_t cache = 0;        // keys and values
};
PassMemory pass_memory(const ModelConfig& model, int layer, const std::vector<int64_t>& lengths);

// first_weight: how much the first token of a sequence counts among the inputs of linears; others count 1.
// x: F32 [sum of lengths, H], the residual stream before the layer, in place: after it. Sequences follow each other, each
// from position 0. device: of the CPU.
void run_layer(LayerStore& store, Tensor x, const std::vector<int64_t>& lengths, float first_weight,
               std::unique_ptr<Device> device, LinearVisitor& visitor);

}  // namespace llama4rt::calibrate
