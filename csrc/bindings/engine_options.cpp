#include "bindings/engine_options.h"

#include <string>

#include "base/error.h"
#include "bindings/bindings.h"
#include "weights/layout.h"

namespace py = pybind11;

namespace llama4rt {
namespace {

template <class T>
void take_option(const py::kwargs& given, const char* name, T& value, size_t& taken) {
  if (!given.contains(name)) return;
  try {
    value = given[name].cast<T>();
  } catch (const py::cast_error&) {
    throw py::type_error(error_text(name, " has the wrong type, or does not fit into 64 bits"));
  }
  ++taken;
}

}  // namespace

EngineOptions engine_options(const py::kwargs& given, WeightOptions* model) {
  EngineOptions o;
  size_t taken = 0;
  take_option(given, "device", o.device, taken);
  take_option(given, "num_threads", o.num_threads, taken);
  take_option(given, "max_model_len", o.max_model_len, taken);
  take_option(given, "max_num_seqs", o.max_num_seqs, taken);
  take_option(given, "kv_cache_bytes", o.kv_cache_bytes, taken);
  take_option(given, "block_size", o.block_size, taken);
  take_option(given, "max_batched_tokens", o.max_batched_tokens, taken);
  take_option(given, "kv_cache_dtype", o.kv_cache_dtype, taken);
  take_option(given, "kv_cache_dtype_local", o.kv_cache_dtype_local, taken);
  take_option(given, "activations", o.activations, taken);
  take_option(given, "cuda_prefill", o.cuda_prefill, taken);
  take_option(given, "cuda_run_ahead", o.cuda_run_ahead, taken);
  take_option(given, "cuda_overlap", o.cuda_overlap, taken);
  take_option(given, "prefix_cache", o.prefix_cache, taken);
  take_option(given, "speculate", o.speculate, taken);
  take_option(given, "always_guess", o.always_guess, taken);
  take_option(given, "max_waiting", o.max_waiting, taken);
  take_option(given, "image_cache_bytes", o.image_cache_bytes, taken);
  take_option(given, "adapter_bytes", o.adapter_bytes, taken);
  take_option(given, "memory_bytes", o.memory_bytes, taken);
  take_option(given, "kv_store", o.kv_store, taken);
  take_option(given, "kv_store_bytes", o.kv_store_bytes, taken);
  if (model) {
    std::string kind = "int4", head = "bf16", vision = "bf16";
    take_option(given, "weights", kind, taken);
    take_option(given, "group_size", model->group_size, taken);
    take_option(given, "experts_only", model->experts_only, taken);
    take_option(given, "lm_head", head, taken);
    take_option(given, "vision", vision, taken);
    model->weights = weight_kind(kind);
    model->lm_head = weight_kind(head);
    model->vision = weight_kind(vision);
    LLAMA4RT_CHECK(kConfig, valid_group_size(model->group_size), "group_size is ", model->group_size,
                   "; it must be ", group_size_names());
  }
  if (taken != given.size()) throw py::type_error("unknown keyword argument; see _core.pyi");
  return o;
}

}  // namespace llama4rt
