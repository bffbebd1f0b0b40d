// How much scratch the CUDA kernels of a model take in its largest step, at most: what each launcher's
// scratch_bytes() says, bounded without CUDA so that a plan needs neither a GPU nor nvcc. The backend takes
// that much at the start; were it too little, it would take more when an op asks.
#pragma once

#include "ops/backend.h"

namespace llama4rt {

ScratchBytes cuda_scratch_bytes(const ModelConfig& config, const StepShape& shape);

}  // namespace llama4rt
