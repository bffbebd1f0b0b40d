// Every barrier, wait, arrival and shuffle of linear_prefill removed, one at a time (teeth.h).
#include "cuda/many_rows_teeth.h"

namespace llama4rt::test {

TEST(every_break_is_caught) {
  std::vector<int32_t> rows_of_expert(64, 0);
  rows_of_expert[0] = 3;
  rows_of_expert[2] = rows_of_expert[5] = rows_of_expert[62] = 1;
  rows_of_expert[63] = 2;
  // Nine steps of K; the ring has six stages.
  ExpertRows product({.kind = WeightKind::kInt4, .group_size = 64, .zeros = true}, rows_of_expert, 20, 530,
                     false);
  check_teeth(
      "linear_prefill",
      [&] {
        return product.is_right([](cuda::Stream& stream, const cuda::RowsProduct& p, const Weight& w) {
          cuda::LinearPrefill::run(stream, p, w, 3);
        });
      },
      8);
}

}  // namespace llama4rt::test
