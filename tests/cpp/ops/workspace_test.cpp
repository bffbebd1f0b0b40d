#include "ops/workspace.h"

#include "ops/conformance.h"

namespace llama4rt::test {

TEST(everything_taken_is_aligned_and_apart) {
  Workspace ws(reference(), 4096);
  const Tensor a = ws.take(3, 5), b = ws.take(DType::kBF16, 1, 7), c = ws.take_vector(DType::kI32, 9);
  for (const Tensor& t : {a, b, c}) CHECK_EQ(reinterpret_cast<uintptr_t>(t.data) % 64, 0u);
  CHECK(static_cast<char*>(b.data) >= static_cast<char*>(a.data) + 3 * 5 * 4);
  CHECK(static_cast<char*>(c.data) >= static_cast<char*>(b.data) + 7 * 2);
  CHECK_EQ(c.rank, 1);
  CHECK_EQ(c.stride0, 1);
}

TEST(a_frame_gives_back_what_its_scope_took) {
  Workspace ws(reference(), 4096);
  const Tensor kept = ws.take(1, 16);
  void* inside = nullptr;
  {
    const auto scope = ws.frame();
    inside = ws.take(4, 16).data;
    const auto nested = ws.frame();
    ws.take(4, 16);
  }
  CHECK_EQ(ws.take(1, 1).data, inside);
  CHECK(kept.data != inside);
  CHECK_EQ(ws.peak(), 64u + 2 * 256u);
}

TEST(the_whole_arena_can_be_used_and_not_a_byte_more) {
  Workspace ws(reference(), 128);
  ws.take(1, 16);
  ws.take(1, 16);
  CHECK_THROWS(kInternal, ws.take(1, 1));
  CHECK_EQ(ws.take(0, 16).numel(), 0);
}

}  // namespace llama4rt::test
