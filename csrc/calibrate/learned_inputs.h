// What the inputs of one matrix, or of one expert of a stack, say about the errors of its weights.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/thread_pool.h"
#include "calibrate/feedback.h"
#include "calibrate/linear_inputs.h"

namespace llama4rt::calibrate {

struct RoundingOptions {
  float damping = 0.01f;  // of the mean energy of an input, added to every input's
  float importance =
      1;  // power of an input's energy by which its weights' errors count in the search of scales
  float first_weight = 1;      // of the first token of a sequence: every other attends to it
  int64_t fewest_tokens = 32;  // an expert that saw fewer is rounded plainly
};

struct LearnedInputs {
  std::unique_ptr<Feedback> feedback;  // none: of too few tokens, or all inputs are 0
  std::vector<float> importance;       // [k], of the errors of an input's weights in the search of scales
  double energy = 0;                   // of one input on average, summed over the tokens
};

LearnedInputs learn_inputs(const LinearInputs& inputs, int64_t expert, const RoundingOptions& options,
                           const cpu::Kernels& kernels, ThreadPool& pool);

}  // namespace llama4rt::calibrate
