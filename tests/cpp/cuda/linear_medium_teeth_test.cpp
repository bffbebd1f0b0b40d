// Every barrier, wait, fence and shuffle of linear_medium removed, one at a time (teeth.h).
#include "cuda/many_rows_teeth.h"

namespace llama4rt::test {

TEST(every_break_is_caught) {
  std::vector<int32_t> rows_of_expert(64, 0);  // two for each lane that looks for them
  rows_of_expert[0] = 9;
  rows_of_expert[33] = 3;
  rows_of_expert[63] = 2;
  // Two splits of K beside each other.
  ExpertRows product({.kind = WeightKind::kInt4, .group_size = 64, .zeros = true}, rows_of_expert, 20, 1090,
                     false);
  check_teeth(
      "linear_medium",
      [&] {
        return product.is_right([](cuda::Stream& stream, const cuda::RowsProduct& p, const Weight& w) {
          constexpr int kMany = 1000000;
          const cuda::DeviceBuffer scratch(cuda::LinearMedium::scratch_bytes(w, p.rows, kMany));
          const cuda::DeviceBuffer tickets(cuda::LinearMedium::ticket_bytes(w, p.rows, kMany));
          stream.fill(tickets.data(), 0, tickets.size());
          cuda::LinearMedium::run(stream, p, w, kMany, scratch.data(), tickets.as<uint32_t>());
          stream.synchronize();
        });
      },
      9);
}

}  // namespace llama4rt::test
