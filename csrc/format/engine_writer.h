// EngineWriter: streams tensors into a temporary file and turns it into an engine file at the end.
//
// The life of a writer: declare everything, begin(), write or pack everything in any order, finish(). Only
// finish() makes the file appear under its name (base/output_file.h). The same calls give the same bytes,
// whatever the number of threads.
//
// Payload goes through pwrite: what is written is in the page cache, never in this process's memory.
// Checksums are computed in finish() by reading the temporary back, tensor by tensor on all threads.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/output_file.h"
#include "base/thread_pool.h"
#include "format/safetensors.h"
#include "weights/pack.h"
#include "weights/weight.h"

namespace llama4rt {

class EngineWriter {
 public:
  static constexpr uint64_t kMetadataReserve = 65'536;  // bytes

  // layout: of every packed weight.
  explicit EngineWriter(std::string path, int num_threads = 0, Layout layout = Layout::kCpu16);
  ~EngineWriter();  // abort()
  EngineWriter(const EngineWriter&) = delete;
  EngineWriter& operator=(const EngineWriter&) = delete;

  // Misuse (wrong order, unknown names, wrong sizes, rows written twice) throws kInternal; so does what the
  // operating system refuses. Bad weights throw kCheckpoint.
  void declare_tensor(const std::string& name, const std::string& dtype, const std::vector<int64_t>& shape);
  // shape.{kind, num_experts, n, k, group_size, scale_dtype, table} describe the weight; pointers are ignored.
  // Declares `name`, and for scaled kinds `name.scales` and, when asked, `name.zeros` and `name.offsets`.
  void declare_weight(const std::string& name, const Weight& shape, bool zeros, bool offsets = false);

  // metadata_reserve: bytes kept for the metadata given to finish(). More is possible, at the cost of moving
  // the payload then. resume: goes on in the temporary file that suspend(), or a killed process, left of a
  // writer with the same declarations; true where there is one. Everything must then be written again that
  // restore() does not vouch for.
  bool begin(uint64_t metadata_reserve = kMetadataReserve, bool resume = false);

  // Bytes of a plain tensor. Floating-point values must be finite (kCheckpoint).
  void write_tensor(const std::string& name, std::span<const std::byte> data);
  // Packs source row i as stored row rows[i] of expert `expert`. For a plain BF16 [N, K] tensor (the
  // embedding) rows are converted to bf16 instead.
  void quantize_rows(const std::string& name, int64_t expert, std::span<const int64_t> rows,
                     const SourceMatrix& source);
  // Stores codes as they are. scale_dtype: of the source; it must be the declared one.
  void import_rows(const std::string& name, int64_t expert, std::span<const int64_t> rows,
                   const CodeRows& source, DType scale_dtype);
  // The error of what quantize_rows has packed into `name` so far.
  PackError report(const std::string& name) const;

  // What a later writer needs to go on: the stored tensors of a completely written tensor or weight, with
  // their checksums, and the error so far.
  struct Complete {
    std::vector<std::pair<std::string, uint64_t>> checksums;
    PackError error;
  };
  Complete complete(const std::string& name);
  // After begin() was true: takes over what complete() said of `name`, unless bytes in the file say otherwise;
  // then false, and its bytes are zero.
  bool restore(const std::string& name, const Complete& done);

  // The shape of a weight as declared; throws kInternal for an unknown name.
  Weight declared_weight(const std::string& name) const;

  // Checks that everything was written, adds checksums, weights and header_checksum to the metadata, and
  // publishes the file under its final name. metadata: keys and texts, kept in this order. Returns the file's
  // bytes.
  uint64_t finish(const std::vector<std::pair<std::string, std::string>>& metadata);
  void abort() noexcept;
  // As abort(), but leaves what is written for begin(resume).
  void suspend() noexcept;

 private:
  enum class State { kDeclaring, kWriting, kFinished, kAborted };
  struct PlannedWeight {
    Weight shape;
    PackError error;
    std::vector<std::vector<bool>> written;  // [E][N] stored rows
  };
  class FileBlocks;

  void require(State state, const char* call) const;
  void add_tensor(const std::string& name, const StoredDType* dtype, std::vector<int64_t> shape);
  void plan_offsets();
  const StoredTensor& planned(const std::string& name) const;
  PlannedWeight& weight_of(const std::string& name);
  void mark_rows(std::vector<bool>& written, const std::string& name, std::span<const int64_t> rows) const;
  void convert_rows(const StoredTensor& tensor, std::span<const int64_t> rows, const SourceMatrix& source);
  bool is_written(const std::string& name) const;
  std::vector<const StoredTensor*> stored_parts(const std::string& name) const;
  void check_complete() const;
  uint64_t hash(const StoredTensor& tensor, std::vector<char>& buffer) const;
  std::vector<uint64_t> hash_payload();
  std::string make_header(const std::vector<std::pair<std::string, std::string>>& metadata,
                          const std::vector<uint64_t>& hashes) const;
  void move_payload(uint64_t new_data_offset);

  const std::string path_;
  const Layout layout_;
  ThreadPool pool_;
  mutable std::mutex mutex_;  // one call at a time; Python threads may share a writer
  State state_ = State::kDeclaring;
  std::optional<OutputFile> output_;   // from begin() to finish()
  std::vector<StoredTensor> tensors_;  // declared order, then file order once offsets are planned
  std::map<std::string, size_t> index_;
  std::map<std::string, PlannedWeight> weights_;
  std::map<std::string, std::vector<bool>> plain_rows_;  // plain tensors written by rows
  std::map<std::string, bool> plain_written_;
  std::map<std::string, uint64_t> known_hashes_;  // of complete stored tensors
  uint64_t data_offset_ = 0;
  uint64_t data_bytes_ = 0;
};

}  // namespace llama4rt
