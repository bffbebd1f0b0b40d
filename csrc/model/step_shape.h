// StepShape: the largest step that the parts of an engine must be ready for. Memory is planned for it and
// allocated once.
#pragma once

#include <cstdint>

namespace llama4rt {

struct StepShape {
  int64_t max_tokens = 0;   // T
  int64_t max_outputs = 0;  // rows whose logits may be wanted
  int64_t logit_rows = 0;   // of those, in memory at once: V is large, and there may be many rows
  int64_t max_seqs = 0;     // sequences, rows of padding included
  int64_t max_context = 0;  // tokens of one sequence
  int block_size = 0;       // tokens of a KV block
  int64_t image_tiles = 0;  // that pass the vision tower at once; 0: no tower
};

}  // namespace llama4rt
