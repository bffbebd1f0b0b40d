#include "ops/kv_formats.h"

#include "base/error.h"

namespace llama4rt {

std::string kv_refusal(KvKind kind, int64_t head_dim, bool on_gpu) {
  const KvFormat& format = kv_format(kind);
  if (on_gpu && !format.on_gpu) return error_text("\"", format.name, "\" is for CPUs; on a GPU use \"fp8\"");
  if (head_dim % format.head_dim_multiple == 0 &&
      (format.max_head_dim == 0 || head_dim <= format.max_head_dim))
    return "";
  const std::string most =
      format.max_head_dim > 0 ? error_text(", at most ", format.max_head_dim) : std::string();
  return error_text("\"", format.name, "\" needs a head_dim that is a multiple of ", format.head_dim_multiple,
                    most, "; the model's is ", head_dim);
}

}  // namespace llama4rt
