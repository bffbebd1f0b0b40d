// What the tests of CUDA's attention share: sequences in a device cache whose blocks lie mixed, block tables
// with poison behind their end, and the reference's answer with the size that each element has when nothing
// cancels.
#pragma once

#include <cmath>
#include <limits>

#include "cuda/cuda_device.h"
#include "cuda/simt_test.h"
#include "reference/reference_ops.h"

namespace llama4rt::test {

// Keys and values of one layer in device memory, full of NaN. The host's copy is the reference's. There is
// memory for num_blocks blocks, of which the first has the number first_block: a small cache can be the end
// of a very large one.
class KvPair {
 public:
  KvPair(cuda::Stream& stream, int num_blocks, const cases::AttentionCase& c, int first_block = 0)
      : host_{.format = c.kv_format,
              .num_blocks = first_block + num_blocks,
              .block_size = c.block_size,
              .num_kv_heads = c.num_kv_heads,
              .head_dim = c.head_dim},
        bytes_(num_blocks * host_.block_bytes()),
        host_k_(bytes_),
        host_v_(bytes_),
        device_k_(size_t(bytes_)),
        device_v_(size_t(bytes_)),
        device_(host_) {
    const int64_t before = first_block * host_.block_bytes();
    const auto from = [&](void* p) {
      return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(p) - uintptr_t(before));
    };
    host_.k = from(host_k_.as<void>());
    host_.v = from(host_v_.as<void>());
    device_.k = from(device_k_.data());
    device_.v = from(device_v_.data());
    for (void* p : {device_k_.data(), device_v_.data()}) stream.fill(p, 0xff, size_t(bytes_));
    stream.synchronize();
  }
  const KvLayer& host() const { return host_; }
  const KvLayer& device() const { return device_; }

 private:
  KvLayer host_;
  int64_t bytes_;
  AlignedBytes host_k_, host_v_;
  cuda::DeviceBuffer device_k_, device_v_;
  KvLayer device_;
};

template <class T>
class DeviceArray {
 public:
  DeviceArray(cuda::Stream& stream, const std::vector<T>& values) : buffer_(values.size() * sizeof(T)) {
    stream.copy_to_device(buffer_.data(), values.data(), values.size() * sizeof(T));
    stream.synchronize();
    as_if_a_kernel_wrote(buffer_);
  }
  const T* data() const { return buffer_.as<const T>(); }
  void* get() const { return buffer_.data(); }

 private:
  cuda::DeviceBuffer buffer_;
};

class AttentionWorld {
 public:
  AttentionWorld(Rng& rng, const cases::AttentionCase& c, int first_block = 0)
      : case_(c), q_(random_activations(rng, c.num_tokens(), c.num_kv_heads * c.group * c.head_dim)) {
    for (const cases::AttentionSequence& s : c.sequences) {
      const int64_t keys = s.first_position + s.length - s.kv_begin, width = c.num_kv_heads * c.head_dim;
      Stored stored{
          .shape = s, .k = random_activations(rng, keys, width), .v = random_activations(rng, keys, width)};
      for (int64_t j = 0; j < ceil_div(keys, int64_t(c.block_size)); ++j)
        stored.blocks.push_back(num_blocks_++);
      max_blocks_ = std::max(max_blocks_, int(stored.blocks.size()) + 1);
      sequences_.push_back(std::move(stored));
    }
    ++num_blocks_;  // one that nobody owns
    std::vector<int32_t> shuffled(static_cast<size_t>(num_blocks_));
    std::iota(shuffled.begin(), shuffled.end(), 0);
    for (size_t i = shuffled.size(); i > 1; --i)
      std::swap(shuffled[i - 1], shuffled[size_t(rng.below(int64_t(i)))]);
    for (Stored& s : sequences_)
      for (int32_t& block : s.blocks) block = first_block + shuffled[size_t(block)];
    // Probabilities that are spread over many keys: a missing key shows.
    scale_ = 0.25f / float(c.head_dim);
    kv_ = std::make_unique<KvPair>(stream_, num_blocks_, c, first_block);
    fill();
  }

  // Makes the first sequence so long that its first new token is at this position: its blocks again and
  // again.
  void lengthen(int64_t first_position) {
    Stored& s = sequences_[0];
    s.shape.first_position = first_position;
    const int64_t keys = first_position + s.shape.length - s.shape.kv_begin;
    for (size_t i = 0; int64_t(s.blocks.size()) < ceil_div(keys, int64_t(case_.block_size)); ++i)
      s.blocks.push_back(s.blocks[i]);
    max_blocks_ = int(s.blocks.size()) + 1;
  }

  const cases::AttentionCase& shape() const { return case_; }
  Matrix& q() { return q_; }
  const KvPair& kv() const { return *kv_; }
  cuda::Stream& stream() { return stream_; }
  float scale() const { return scale_; }
  void set_scale(float scale) { scale_ = scale; }
  CudaDevice& gpu() { return gpu_; }

  // The batch of query rows [first, first + count), which may cut sequences anywhere.
  struct Rows {
    std::vector<int32_t> query_start = {0}, table;
    std::vector<int64_t> first_position, kv_begin;
    AttentionBatch batch;
  };
  Rows rows(int64_t first, int64_t count) const {
    Rows r;
    r.batch.max_blocks = max_blocks_;
    int64_t row = 0;
    for (const Stored& s : sequences_) {
      const int64_t begin = std::max(first, row), end = std::min(first + count, row + s.shape.length);
      if (begin < end) {
        r.first_position.push_back(s.shape.first_position + begin - row);
        r.kv_begin.push_back(s.shape.kv_begin);
        r.query_start.push_back(int32_t(end - first));
        // No more of the table than these rows may look at.
        const int64_t keys = r.first_position.back() + end - begin - s.shape.kv_begin;
        r.table.insert(r.table.end(), s.blocks.begin(),
                       s.blocks.begin() + ceil_div(keys, int64_t(case_.block_size)));
        r.table.resize(r.kv_begin.size() * size_t(max_blocks_), 1 << 28);
        r.batch.max_query_len = std::max(r.batch.max_query_len, int(end - begin));
      }
      row += s.shape.length;
    }
    r.batch.num_seqs = int(r.kv_begin.size());
    r.batch.query_start = r.query_start.data();
    r.batch.first_position = r.first_position.data();
    r.batch.kv_begin = r.kv_begin.data();
    r.batch.block_table = r.table.data();
    return r;
  }

  // Runs attend(out, q, batch) with everything in device memory; the result of rows [first, first + count).
  template <class Attend>
  Matrix on_device(int64_t first, int64_t count, const Attend& attend) {
    Rows r = rows(first, count);
    const DeviceArray<int32_t> starts(stream_, r.query_start), table(stream_, r.table);
    const DeviceArray<int64_t> positions(stream_, r.first_position), begins(stream_, r.kv_begin);
    r.batch.query_start = starts.data();
    r.batch.block_table = table.data();
    r.batch.first_position = positions.data();
    r.batch.kv_begin = begins.data();
    Matrix q = q_.part(first, count), out(count, q_.columns());
    DeviceMatrix dq(stream_, q), dout(stream_, out);
    attend(dout.view(), dq.view(), r.batch);
    gpu_.copy_to_host(nullptr, nullptr, 0);
    stream_.synchronize();
    dout.fetch(stream_);
    return out;
  }
  Matrix attend(int64_t first, int64_t count) {
    return on_device(first, count, [&](Tensor out, Tensor q, const AttentionBatch& batch) {
      gpu_.ops().paged_attention(out, q, kv_->device(), batch, scale_);
    });
  }

  // The reference's answer, with queries rounded to bf16 when `round_q`, and sum_j p_j |v_j| of each element.
  struct Expected {
    Matrix value, size;
  };
  Expected expected(bool round_q) {
    Rows r = rows(0, q_.rows());
    Matrix q = q_;
    if (round_q)
      for (int64_t t = 0; t < q.rows(); ++t)
        for (int64_t i = 0; i < q.columns(); ++i) q.row(t)[i] = to_float(to_bf16(q.row(t)[i]));
    Expected e{Matrix(q.rows(), q.columns()), Matrix(q.rows(), q.columns())};
    reference_.ops().paged_attention(e.value.view(), q.view(), kv_->host(), r.batch, scale_);
    store_on_host(true);
    reference_.ops().paged_attention(e.size.view(), q.view(), kv_->host(), r.batch, scale_);
    store_on_host(false);
    return e;
  }

 private:
  struct Stored {
    cases::AttentionSequence shape;
    std::vector<int32_t> blocks = {};
    Matrix k, v;  // [keys, Hkv * D]
  };
  std::vector<int64_t> slots(const Stored& s) const {
    std::vector<int64_t> all;
    for (int64_t j = 0; j < s.k.rows(); ++j)
      all.push_back(int64_t(s.blocks[size_t(j / case_.block_size)]) * case_.block_size +
                    j % case_.block_size);
    return all;
  }
  void store_on_host(bool absolute) {
    for (const Stored& s : sequences_) {
      Matrix k = s.k, v = s.v, q = s.k;
      if (absolute)
        for (int64_t i = 0; i < v.rows(); ++i)
          for (int64_t j = 0; j < v.columns(); ++j) v.row(i)[j] = std::abs(v.row(i)[j]);
      std::vector<int64_t> at = slots(s);
      reference_.ops().prepare_qkv(q.view(), k.view(), v.view(), {}, kv_->host(),
                                   Tensor(at.data(), DType::kI64, {int64_t(at.size())}));
    }
  }
  void fill() {
    store_on_host(false);
    for (const Stored& s : sequences_) {
      Matrix k = s.k, v = s.v, q = s.k;
      DeviceMatrix dk(stream_, k), dv(stream_, v), dq(stream_, q);
      const DeviceArray<int64_t> at(stream_, slots(s));
      gpu_.ops().prepare_qkv(dq.view(), dk.view(), dv.view(), {}, kv_->device(),
                             Tensor(at.get(), DType::kI64, {s.k.rows()}));
      gpu_.copy_to_host(nullptr, nullptr, 0);
    }
  }

  cases::AttentionCase case_;
  Matrix q_;
  std::vector<Stored> sequences_;
  int num_blocks_ = 0, max_blocks_ = 0;
  float scale_ = 0;
  cuda::Stream stream_;
  CudaDevice gpu_{0};
  ReferenceDevice reference_;
  std::unique_ptr<KvPair> kv_;
};

// The largest |found - expected| / size; infinite where that is NaN.
inline double worst_error(const Matrix& found, const AttentionWorld::Expected& e) {
  double worst = 0;
  for (int64_t t = 0; t < found.rows(); ++t)
    for (int64_t i = 0; i < found.columns(); ++i) {
      const double error = std::abs(double(found.row(t)[i]) - double(e.value.row(t)[i]));
      const double relative = error <= 1e-30 ? 0.0 : error / double(e.size.row(t)[i]);
      if (!(relative <= worst))
        worst = std::isnan(relative) ? std::numeric_limits<double>::infinity() : relative;
    }
  return worst;
}

}  // namespace llama4rt::test
