// MeasuringPass: what the matrices of a layer would lose as codes of several kinds, while the layer itself stays exact.
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

struct MeasuredMatrix {
  std::string name;  // as in the model of one layer
  std::vector<double>
      costs;  // of each candidate, calibrated: squared error of a token's outputs, estimated from some rows
  double plain_cost = 0;  // of the first candidate without calibration
  double harm =
      0;  // squared change of the residual stream behind the layer, relative to it, where this matrix alone is
          // rounded plainly as the first candidate

  std::string name_within_layer() const { return name.substr(std::string_view("layers.0.").size()); }
};

class MeasuringPass final : public LinearVisitor {
 public:
  // candidates: by name, the first the narrowest
  MeasuringPass(LayerStore& store, std::map<std::string, std::vector<GridSpec>> candidates,
                const RoundingOptions& options, const cpu::Kernels& kernels, ThreadPool& pool,
                PassControl& control)
      : store_(store),
        candidates_(std::move(candidates)),
        options_(options),
        kernels_(kernels),
        pool_(pool),
        control_(control) {}

  void visit(const std::string& name, const LinearInputs& inputs) override;

  std::vector<MeasuredMatrix>& measured() { return measured_; }

 private:
  void measure_expert(const TensorSpec& tensor, const std::vector<GridSpec>& candidates,
                      const LinearInputs& inputs, int64_t expert, MeasuredMatrix& out);

  LayerStore& store_;
  const std::map<std::string, std::vector<GridSpec>> candidates_;
  const RoundingOptions options_;
  const cpu::Kernels& kernels_;
  ThreadPool& pool_;
  PassControl& control_;
  std::vector<MeasuredMatrix> measured_;
};

}  // namespace llama4rt::calibrate
