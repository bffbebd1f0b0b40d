// Every planted bug of planted_bugs/linear_decode_general.cmake must be caught on one of three products: as Q4_K with zero
// points too, with two boxes of further columns, and with a table.
#include "cuda/decode_run.h"
#include "cuda/kernels/linear_decode.cuh"
#include "planted_bugs/linear_decode_general_bugs.h"

namespace llama4rt::test {
namespace {

constexpr cases::WeightSpec kOffsets{
    .kind = WeightKind::kInt4, .group_size = 32, .zeros = true, .scales = DType::kI8, .offsets = true};
constexpr cases::WeightSpec kTwoBoxes{
    .kind = WeightKind::kInt8, .group_size = 16, .scales = DType::kF32, .offsets = true};
constexpr cases::WeightSpec kTable{
    .kind = WeightKind::kTable4, .group_size = 64, .scales = DType::kF16, .table = cases::kWideTable};

}  // namespace

TEST(every_bug_is_caught) {
  DecodeRun offsets(kOffsets), two_boxes(kTwoBoxes), table(kTable);
#define ALL_RIGHT(space)                                                                       \
  [&] {                                                                                        \
    using Offsets = space::GeneralInt4<32, false>;                                             \
    using TwoBoxes = space::GeneralInt8<16, true>;                                             \
    using Table = space::GeneralTable4<64, true>;                                              \
    const auto right = [](DecodeRun& run, auto weights) {                                      \
      using Config = space::DecodeConfig<decltype(weights), 1>;                                \
      return is_right<Config>(run, space::linear_decode_kernel<Config>);                       \
    };                                                                                         \
    return right(offsets, Offsets()) && right(two_boxes, TwoBoxes()) && right(table, Table()); \
  }
  CHECK_EQ(caught(ALL_RIGHT(cuda)), "");
#define BUG(name) expect_caught(#name, ALL_RIGHT(bugs::name));
  LLAMA4RT_BUGS_OF_LINEAR_DECODE_GENERAL(BUG)
#undef BUG
#undef ALL_RIGHT
}

}  // namespace llama4rt::test
