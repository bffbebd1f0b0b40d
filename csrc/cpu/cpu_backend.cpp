#include "cpu/cpu_backend.h"

#include "base/thread_pool.h"
#include "cpu/dispatch.h"
#include "reference/reference_backend.h"

namespace llama4rt {
namespace {

class CpuBackend final : public ReferenceBackend {
 public:
  explicit CpuBackend(int num_threads) : kernels_(cpu::select_kernels()), pool_(num_threads) {}
  std::string name() const override { return "cpu"; }
  std::string describe() const override {
    return error_text("cpu ", kernels_.isa, ", ", num_threads(), num_threads() == 1 ? " thread" : " threads");
  }
  int num_threads() const override { return pool_.num_threads(); }

 private:
  void do_rmsnorm(Tensor out, Tensor x, Tensor weight, float eps) override {
    pool_.parallel_for(x.size(0), 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        kernels_.rmsnorm_row(out.row<float>(t), x.row<const float>(t), weight.ptr<const float>(), x.size(1),
                             eps);
    });
  }

  const cpu::Kernels& kernels_;
  ThreadPool pool_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(int num_threads) {
  return std::make_unique<CpuBackend>(num_threads);
}

}  // namespace llama4rt
