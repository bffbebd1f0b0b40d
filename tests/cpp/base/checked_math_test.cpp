#include "base/checked_math.h"

#include "test.h"

namespace llama4rt {

TEST(products_and_sums_that_fit) {
  CHECK_EQ(checked_mul(1u << 31, 1u << 31).value(), uint64_t(1) << 62);
  CHECK_EQ(checked_mul(0, UINT64_MAX).value(), 0u);
  CHECK_EQ(checked_mul(1, UINT64_MAX).value(), UINT64_MAX);
  CHECK_EQ(checked_add(UINT64_MAX - 1, 1).value(), UINT64_MAX);
}

TEST(products_and_sums_that_do_not_fit) {
  CHECK(!checked_mul(uint64_t(1) << 32, uint64_t(1) << 32));
  CHECK(!checked_mul(UINT64_MAX, 2));
  CHECK(!checked_add(UINT64_MAX, 1));
}

TEST(division_rounds_up) {
  CHECK_EQ(ceil_div(0, 16), 0);
  CHECK_EQ(ceil_div(1, 16), 1);
  CHECK_EQ(ceil_div(16, 16), 1);
  CHECK_EQ(ceil_div(17, 16), 2);
  CHECK_EQ(round_up(int64_t(33), int64_t(32)), 64);
  CHECK_EQ(round_up(int64_t(64), int64_t(32)), 64);
}

}  // namespace llama4rt
