// The table of cache formats: bytes of a head, and refusals.
#include "ops/kv_formats.h"

#include "ops/conformance.h"

namespace llama4rt::test {

TEST(a_head_takes_its_numbers_and_a_scale) {
  CHECK_EQ(kv_head_bytes(KvKind::kF32, 128), 512);
  CHECK_EQ(kv_head_bytes(KvKind::kBF16, 6), 12);
  CHECK_EQ(kv_head_bytes(KvKind::kF8E4M3, 128), 128);
  CHECK_EQ(kv_head_bytes(KvKind::kInt8, 48), 48 + 4);
  for (const KvFormat& format : kKvFormats)  // a block's heads have whole bytes
    for (int64_t dim = format.head_dim_multiple; dim <= 256; dim += format.head_dim_multiple) {
      SCOPE(format.name, ", ", dim);
      CHECK_EQ(round_up(dim, int64_t(format.stored_multiple)) * format.bits % 8, 0);
      CHECK(kv_head_bytes(format, dim) * 8 >= dim * format.bits + format.scale_bytes * 8);
      if (format.max_head_dim == 0 || dim <= format.max_head_dim)
        CHECK_EQ(kv_refusal(format.kind, dim, false), "");
    }
}

// A format whose codes lie in pairs of sixteens rounds a head up.
TEST(heads_are_padded_to_what_the_format_stores) {
  const KvFormat four{KvKind::kInt8, "four", "four", 4, 4, 32, 16, 256, false, false};
  CHECK_EQ(kv_head_bytes(four, 16), 16 + 4);
  CHECK_EQ(kv_head_bytes(four, 32), 16 + 4);
  CHECK_EQ(kv_head_bytes(four, 80), 48 + 4);
  CHECK_EQ(kv_head_bytes(four, 128), 64 + 4);
}

TEST(every_kind_of_cache_reaches_its_own_code) {
  for (const KvFormat& format : kKvFormats)
    with_kv_kind(format.kind, [&]<KvKind kind>() { CHECK(kind == format.kind); });
}

}  // namespace llama4rt::test
