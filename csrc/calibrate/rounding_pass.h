// RoundingPass: quantises the matrices of a layer while the layer runs, each for the inputs that the quantised ones before
// it produce.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "calibrate/layer_pass.h"
#include "calibrate/rounding.h"

namespace llama4rt::calibrate {

struct RoundingOptions {
  float damping = 0.03f;    // of the mean energy of an input, added to every input's
  float importance = 0.75f; // power of an input's energy by which its weights' errors count in the search of scales
  int64_t fewest_tokens = 32;  // an expert that saw fewer is rounded plainly
};

// What became of one matrix, or of one expert of a stack.
struct MatrixReport {
  std::string name;  // as in the model of one layer
  int64_t expert = 0;
  int64_t tokens = 0;       // rows of inputs it was calibrated with
  bool plain = false;       // too few: rounded without calibration
  double cost = 0;          // mean squared error of its outputs, summed over them, on the calibration text
  double plain_cost = 0;    // of plain rounding
  double squared = 0, weight_squared = 0, max_abs = 0;  // of the weights themselves, as weights/pack.h counts them
  int balanced = 0;         // inputs that were moved by a power of two into the matrix before
};

class RoundingPass final : public LinearVisitor {
 public:
  // specs: how matrices become codes, by name; others stay as they are.
  RoundingPass(LayerStore& store, std::map<std::string, GridSpec> specs, const RoundingOptions& options,
               const cpu::Kernels& kernels, ThreadPool& pool)
      : store_(store), specs_(std::move(specs)), options_(options), kernels_(kernels), pool_(pool) {}

  void visit(const std::string& name, const LinearInputs& inputs) override;

  const std::vector<MatrixReport>& reports() const { return reports_; }

 private:
  void round_expert(const TensorSpec& tensor, const GridSpec& spec, const LinearInputs& inputs, int64_t expert,
                    Matrix& rounded);

  LayerStore& store_;
  const std::map<std::string, GridSpec> specs_;
  const RoundingOptions options_;
  const cpu::Kernels& kernels_;
  ThreadPool& pool_;
  std::vector<MatrixReport> reports_;
};

}  // namespace llama4rt::calibrate
