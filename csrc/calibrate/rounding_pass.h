// RoundingPass: quantises the matrices of a layer while the layer runs, each for the inputs that the quantised ones before
// it produce.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "calibrate/layer_pass.h"
#include "calibrate/learned_inputs.h"
#include "calibrate/pass_control.h"
#include "calibrate/rounding.h"

namespace llama4rt::calibrate {

// What became of one matrix, or of one expert of a stack.
struct MatrixReport {
  std::string name;  // as in the model of one layer
  int64_t expert = 0;
  int64_t tokens = 0;     // rows of inputs it was calibrated with
  bool plain = false;     // too few: rounded without calibration
  double cost = 0;        // mean squared error of its outputs, summed over them, on the calibration text
  double plain_cost = 0;  // of plain rounding
  std::vector<PackError> errors = {};  // [n] of the weights of each stored row

  PackError error() const;                // of all rows
  std::string name_within_layer() const;  // "attn.qkv"
};

class RoundingPass final : public LinearVisitor {
 public:
  // specs: how matrices become codes, by name; others stay as they are.
  RoundingPass(LayerStore& store, std::map<std::string, GridSpec> specs, const RoundingOptions& options,
               const cpu::Kernels& kernels, ThreadPool& pool, PassControl& control)
      : store_(store),
        specs_(std::move(specs)),
        options_(options),
        kernels_(kernels),
        pool_(pool),
        control_(control) {}

  void visit(const std::string& name, const LinearInputs& inputs) override;

  const std::vector<MatrixReport>& reports() const { return reports_; }

 private:
  void round_expert(const TensorSpec& tensor, const GridSpec& spec, const LinearInputs& inputs,
                    int64_t expert, Matrix& rounded);

  LayerStore& store_;
  const std::map<std::string, GridSpec> specs_;
  const RoundingOptions options_;
  const cpu::Kernels& kernels_;
  ThreadPool& pool_;
  PassControl& control_;
  std::vector<MatrixReport> reports_;
};

}  // namespace llama4rt::calibrate
