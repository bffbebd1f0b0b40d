#include "runtime/sampling/row_divergence.h"

#include "base/error.h"
#include "base/thread_pool.h"
#include "runtime/sampling/row_math.h"

namespace llama4rt {
namespace {

RowDivergence compare(RowView& p_view, RowView& q_view, const float* p, const float* q, int64_t size,
                      int32_t next) {
  RowDivergence out;
  p_view.look(p, size);
  q_view.look(q, size);
  if (!p_view.finite() || !q_view.finite()) return out;
  double mean_difference = 0;
  const double p_sum = p_view.log_sum_exp(q, mean_difference), q_sum = q_view.log_sum_exp();
  out.divergence = mean_difference - p_sum + q_sum;
  out.p_logprob = float(double(p[next]) - p_sum);
  out.q_logprob = float(double(q[next]) - q_sum);
  out.p_best = p_view.argmax();
  out.q_best = q_view.argmax();
  out.finite = true;
  return out;
}

}  // namespace

std::vector<RowDivergence> compare_logits(const Tensor& p, const Tensor& q, std::span<const int32_t> next,
                                          int num_threads) {
  const int64_t rows = p.size(0), size = p.size(1);
  LLAMA4RT_CHECK(kRequest, q.size(0) == rows && q.size(1) == size, "logits of the one model are ",
                 p.describe(), ", of the other ", q.describe());
  LLAMA4RT_CHECK(kRequest, int64_t(next.size()) == rows, "there are ", next.size(), " next tokens for ", rows,
                 " rows of logits");
  for (const int32_t token : next)
    LLAMA4RT_CHECK(kRequest, token >= 0 && token < size, "the next token is ", token, "; tokens are 0..",
                   size - 1);
  std::vector<RowDivergence> out(static_cast<size_t>(rows));
  ThreadPool pool(num_threads);
  pool.run([&](int member, int members) {
    RowView p_view, q_view;
    for (int64_t r = member; r < rows; r += members)
      out[size_t(r)] = compare(p_view, q_view, p.row<float>(r), q.row<float>(r), size, next[size_t(r)]);
  });
  return out;
}

}  // namespace llama4rt
