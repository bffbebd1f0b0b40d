#include "base/tensor.h"

#include <numeric>
#include <vector>

#include "test.h"

namespace llama4rt {

TEST(a_new_tensor_is_dense) {
  std::vector<float> data(24);
  const Tensor t(data.data(), DType::kF32, {2, 3, 4});
  CHECK_EQ(t.rank, 3);
  CHECK_EQ(t.stride0, 12);
  CHECK_EQ(t.row_size(), 12);
  CHECK_EQ(t.numel(), 24);
  CHECK(t.contiguous());
  CHECK_EQ(t.row<float>(1), data.data() + 12);
  CHECK_EQ(t.describe(), "F32 [2, 3, 4]");
}

TEST(an_empty_tensor_says_so) {
  const Tensor none;
  CHECK(!none);
  CHECK_EQ(none.numel(), 0);
  CHECK_EQ(Tensor(nullptr, DType::kI32, {0, 7}).numel(), 0);
}

TEST(columns_share_the_data_and_keep_the_row_stride) {
  std::vector<float> data(3 * 10);
  std::iota(data.begin(), data.end(), 0.0f);
  const Tensor all(data.data(), DType::kF32, {3, 10});
  const Tensor part = all.columns(4, 5);
  CHECK_EQ(part.size(1), 5);
  CHECK(!part.contiguous());
  for (int64_t i = 0; i < 3; ++i)
    for (int64_t j = 0; j < 5; ++j) CHECK_EQ(part.row<float>(i)[j], float(10 * i + 4 + j));
}

TEST(rows_of_columns_stay_in_place) {
  std::vector<uint16_t> data(6 * 8);
  std::iota(data.begin(), data.end(), uint16_t(0));
  const Tensor part = Tensor(data.data(), DType::kBF16, {6, 8}).columns(2, 3).rows(4, 2);
  CHECK_EQ(part.size(0), 2);
  CHECK_EQ(part.row<uint16_t>(1)[2], 5 * 8 + 2 + 2);
}

}  // namespace llama4rt
