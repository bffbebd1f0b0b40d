#include "cuda/kernels/rotate_heads.cuh"
#include "cuda/kernels/tiles.h"
#include "cuda/launch.h"

namespace llama4rt::cuda {

void run_rotate_heads(Stream& stream, Tensor x, Tensor rope) {
  const RotateHeadsArgs args{.x = x.ptr<float>(),
                             .rope = rope.ptr<const float>(),
                             .x_stride = x.stride0,
                             .pairs = int(x.size(1) / 2),
                             .head_pairs = int(rope.size(1)),
                             .rows_per_tile = int(rope.size(0))};
  constexpr int kThreads = 256;
  launch("rotate_heads", rotate_heads_kernel<kThreads>, {.grid_x = int(x.size(0)), .threads = kThreads},
         stream, args);
}

}  // namespace llama4rt::cuda
