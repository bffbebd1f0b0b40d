// Calibrator: quantises a model one layer after the other, from bf16 rows to codes, over one calibration text. The
// entrance of this folder: begin() a layer, load all its tensors, run(), read the codes.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "calibrate/measuring_pass.h"
#include "calibrate/rounding_pass.h"

namespace llama4rt::calibrate {

class Calibrator {
 public:
  // lengths: tokens of each sequence of the text. Throws kConfig for texts that the model cannot read in one piece.
  Calibrator(ModelConfig config, std::vector<int64_t> lengths, int num_threads,
             const RoundingOptions& options);

  // Forgets the layer before. Names from here on are those within a layer: "attn.qkv".
  void begin(int layer);
  void end() { store_.reset(); }
  Matrix& matrix(std::string_view name) { return store().matrix(full_name(name)); }
  std::span<float> numbers(std::string_view name) { return store().numbers(full_name(name)); }

  // x: F32 [tokens, H], the residual stream before the layer; in place, after the quantised one. specs: of the matrices
  // that become codes.
  const std::vector<MatrixReport>& run(Tensor x, const std::map<std::string, GridSpec>& specs);
  // x: the same, after the exact layer. candidates: how each matrix might be stored, the narrowest first.
  std::vector<MeasuredMatrix> measure(Tensor x,
                                      const std::map<std::string, std::vector<GridSpec>>& candidates);
  PassControl& control() { return control_; }
  const std::vector<MatrixReport>& reports() const { return reports_; }  // of the latest run()
  // What these stored rows have lost.
  PackError error(std::string_view name, int64_t expert, std::span<const int64_t> rows) const;

  PassMemory memory(int layer) const { return pass_memory(config_, layer, lengths_); }
  ThreadPool& pool() { return pool_; }

 private:
  static std::string full_name(std::string_view name) { return "layers.0." + std::string(name); }
  LayerStore& store();
  void run_layer(Tensor x, LinearVisitor& visitor);

  const ModelConfig config_;
  const std::vector<int64_t> lengths_;
  const int num_threads_;
  const RoundingOptions options_;
  ThreadPool pool_;
  PassControl control_;
  std::unique_ptr<LayerStore> store_;
  std::vector<MatrixReport> reports_;
};

}  // namespace llama4rt::calibrate
