#include "cpu/cpu_backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "cpu/dispatch.h"

namespace llama4rt {
namespace {

// From here on memory comes as zero pages that are backed on first touch, by huge pages where possible.
constexpr size_t kMapBytes = size_t(1) << 20;
constexpr size_t kHugePage = size_t(2) << 20, kPage = 4096;

// int8 costs nothing that the demo model's answers show (docs/numerics.md) and is up to twice as fast; but
// AMX multiplies int16, faster than int8 goes without it.
Activations default_activations(const cpu::Kernels& kernels) {
  return kernels.pack_tile_row ? Activations::kInt16 : Activations::kInt8;
}

void* map_pages(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  LLAMA4RT_CHECK(kInternal, p != MAP_FAILED, "out of memory: the system refused ", bytes, " bytes");
  return p;
}

}  // namespace

CpuBackend::CpuBackend(const cpu::Kernels& kernels, int num_threads, Activations activations)
    : kernels_(kernels),
      activations_(activations == Activations::kAuto ? default_activations(kernels) : activations),
      team_(num_threads),
      members_(size_t(team_.size())) {}

std::string CpuBackend::describe() const {
  return error_text("cpu ", kernels_.isa, ", ", num_threads(), num_threads() == 1 ? " thread" : " threads",
                    activations_ == Activations::kInt8 ? ", int8 activations" : ", int16 activations");
}

void* CpuBackend::allocate(size_t bytes) {
  if (bytes < kMapBytes) {
    void* p = std::aligned_alloc(64, round_up(std::max<size_t>(bytes, 1), size_t(64)));
    LLAMA4RT_CHECK(kInternal, p, "out of memory: the system refused ", bytes, " bytes");
    return p;
  }
  if (bytes < kHugePage) return map_pages(bytes);
  // Huge pages begin at multiples of their size: what is mapped too much in front and behind goes back.
  auto* const first = static_cast<std::byte*>(map_pages(bytes + kHugePage));
  const size_t front =
      round_up(reinterpret_cast<uintptr_t>(first), kHugePage) - reinterpret_cast<uintptr_t>(first);
  const size_t kept = round_up(bytes, kPage), behind = round_up(bytes + kHugePage, kPage) - front - kept;
  if (front > 0) munmap(first, front);
  if (behind > 0) munmap(first + front + kept, behind);
  madvise(first + front, kept, MADV_HUGEPAGE);  // a wish
  return first + front;
}

void CpuBackend::deallocate(void* p, size_t bytes) {
  if (!p) return;
  if (bytes < kMapBytes)
    std::free(p);
  else
    munmap(p, bytes);
}

void CpuBackend::copy_to_device(void* dst, const void* src, size_t bytes) {
  if (bytes > 0) std::memcpy(dst, src, bytes);
}
void CpuBackend::copy_to_host(void* dst, const void* src, size_t bytes) {
  if (bytes > 0) std::memcpy(dst, src, bytes);
}

void CpuBackend::do_embed(Tensor out, const Weight& table, Tensor ids) {
  for (int64_t t = 0; t < ids.size(0); ++t) {
    const int64_t id = ids.ptr<const int32_t>()[t];
    LLAMA4RT_CHECK(kInternal, id >= 0 && id < table.n, "embed: token id ", id, " of row ", t,
                   " is outside the table of ", table.n);
  }
  for_rows(ids.size(0), table.k, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      kernels_.widen_row(out.row<float>(t),
                         static_cast<const bf16*>(table.data) + ids.ptr<const int32_t>()[t] * table.k,
                         table.k);
  });
}

void CpuBackend::do_scatter_rows(Tensor x, Tensor rows, Tensor src) {
  for (int64_t i = 0; i < rows.size(0); ++i)
    std::copy_n(src.row<const float>(i), x.size(1), x.row<float>(rows.ptr<const int32_t>()[i]));
}

void CpuBackend::do_gather_rows(Tensor out, Tensor x, Tensor rows) {
  for (int64_t i = 0; i < rows.size(0); ++i)
    std::copy_n(x.row<const float>(rows.ptr<const int32_t>()[i]), x.size(1), out.row<float>(i));
}

void CpuBackend::do_rmsnorm(Tensor out, Tensor x, Tensor weight, float eps) {
  for_rows(x.size(0), x.size(1), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      kernels_.rmsnorm_row(out.row<float>(t), x.row<const float>(t), weight.ptr<const float>(), x.size(1),
                           eps);
  });
}

void CpuBackend::do_layernorm(Tensor out, Tensor x, Tensor weight, Tensor bias, float eps) {
  for_rows(x.size(0), x.size(1), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      kernels_.layernorm_row(out.row<float>(t), x.row<const float>(t), weight.ptr<const float>(),
                             bias.ptr<const float>(), x.size(1), eps);
  });
}

void CpuBackend::do_add_bias(Tensor x, Tensor bias) {
  for_rows(x.size(0), x.size(1), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      kernels_.add_rows(x.row<float>(t), bias.ptr<const float>(), 0, 1, x.size(1));
  });
}

void CpuBackend::do_gelu(Tensor x, Tensor bias) {
  for_rows(x.size(0), x.size(1), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      kernels_.gelu_row(x.row<float>(t), bias.ptr<const float>(), x.size(1));
  });
}

// A unit is one KV head of one token together with its query heads.
void CpuBackend::do_prepare_qkv(Tensor q, Tensor k, Tensor v, const QkvTransform& transform,
                                const KvLayer& kv, Tensor slot_mapping) {
  const int64_t dim = kv.head_dim, kv_heads = kv.num_kv_heads, group = q.size(1) / dim / kv_heads;
  const float eps = transform.qk_norm ? transform.qk_norm_eps : -1.0f;
  for_rows(q.size(0) * kv_heads, (group + 2) * dim, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t t = unit / kv_heads, kv_head = unit % kv_heads;
      const float* angles = transform.rope ? transform.rope.row<const float>(t) : nullptr;
      const float q_scale = transform.q_scale ? transform.q_scale.ptr<const float>()[t] : 1.0f;
      for (int64_t i = 0; i < group; ++i)
        kernels_.transform_head(q.row<float>(t) + (kv_head * group + i) * dim, angles, eps, q_scale, dim);
      float* key = k.row<float>(t) + kv_head * dim;
      kernels_.transform_head(key, angles, eps, 1.0f, dim);
      kernels_.store_kv(kv, slot_mapping.ptr<const int64_t>()[t], kv_head, key,
                        v.row<const float>(t) + kv_head * dim);
    }
  });
}

std::unique_ptr<Backend> make_cpu_backend(int num_threads, Activations activations) {
  return std::make_unique<CpuBackend>(cpu::select_kernels(), num_threads, activations);
}

}  // namespace llama4rt
