// The runtime classes of llama4rt._core: Event, Engine. The GIL is released while an engine opens,
// steps and closes; everything else returns at once.
#include "runtime/engine/engine.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/engine_options.h"
#include "bindings/gil.h"
#include "model/shape.h"
#include "weights/layout.h"

namespace py = pybind11;

namespace llama4rt {
namespace {

using TopLogprobs = std::vector<std::pair<int32_t, float>>;

py::array_t<float> encode_image(Engine& engine, const py::array_t<uint8_t, py::array::c_style>& tiles) {
  std::vector<float> rows;
  {
    const std::span<const uint8_t> pixels(tiles.data(), size_t(tiles.nbytes()));
    const WithoutGil no_gil;
    rows = engine.encode_image(pixels);
  }
  const auto width = py::ssize_t(engine.config().hidden_size);
  py::array_t<float> out({py::ssize_t(rows.size()) / width, width});
  std::copy(rows.begin(), rows.end(), out.mutable_data());
  return out;
}

// Hands the rows to numpy without copying them.
py::object logits_array(TokenEvent& event) {
  if (!event.logits) return py::none();
  auto rows = std::make_unique<LogitRows>(std::move(*event.logits));
  event.logits.reset();
  const float* const data = rows->values.data();
  const std::vector<py::ssize_t> shape = {py::ssize_t(rows->rows), py::ssize_t(rows->columns)};
  const py::capsule owner(rows.get(), [](void* p) { delete static_cast<LogitRows*>(p); });
  static_cast<void>(rows.release());
  return py::array_t<float>(shape, data, owner);
}

// (place of the first token, float32 [tokens], int32 [tokens, top], float32 [tokens, top])
py::object scores(const TokenEvent& event) {
  if (!event.scores) return py::none();
  const ScoredTokens& s = *event.scores;
  const auto count = py::ssize_t(s.logprobs.size()), num_top = py::ssize_t(s.num_top);
  py::array_t<int32_t> ids({count, num_top});
  py::array_t<float> logprobs({count, num_top});
  for (size_t i = 0; i < s.top.size(); ++i) {
    ids.mutable_data()[i] = s.top[i].first;
    logprobs.mutable_data()[i] = s.top[i].second;
  }
  return py::make_tuple(s.first, py::array_t<float>(count, s.logprobs.data()), ids, logprobs);
}

py::object prompt_logprobs(const TokenEvent& event) {
  if (!event.prompt_logprobs) return py::none();
  std::vector<std::pair<float, TopLogprobs>> out;
  for (const TokenLogprobs& entry : *event.prompt_logprobs) out.emplace_back(entry.logprob, entry.top);
  return py::cast(out);
}

// A TokenEvent whose logits belong to Python already.
struct PyEvent {
  TokenEvent event;
  py::object logits;
};

// (logprob, [(id, logprob), ...]) of each token.
py::list token_logprobs(const TokenEvent& event) {
  py::list out;
  for (const OutputToken& token : event.tokens)
    out.append(py::make_tuple(token.logprobs.logprob, token.logprobs.top));
  return out;
}

std::vector<int32_t> token_ids(const TokenEvent& event) {
  std::vector<int32_t> ids;
  for (const OutputToken& token : event.tokens) ids.push_back(token.id);
  return ids;
}

// What most events are, cheap to ask for.
int32_t only_token(const TokenEvent& e) {
  const bool only = e.tokens.size() == 1 && e.finish_reason.empty() && !e.prompt_logprobs && e.guessed == 0;
  return only ? e.tokens[0].id : -1;
}

void bind_event(py::module_& m) {
  py::class_<PyEvent>(m, "Event", checked_instances())
      .def_property_readonly("request_id", [](const PyEvent& e) { return e.event.request_id; })
      .def_property_readonly("index", [](const PyEvent& e) { return e.event.index; })
      .def_property_readonly("token_ids", [](const PyEvent& e) { return token_ids(e.event); })
      .def_property_readonly("logprobs", [](const PyEvent& e) { return token_logprobs(e.event); })
      .def_property_readonly("prompt_logprobs", [](const PyEvent& e) { return prompt_logprobs(e.event); })
      .def_property_readonly("logits", [](const PyEvent& e) { return e.logits; })
      .def_property_readonly("scores", [](const PyEvent& e) { return scores(e.event); })
      .def_property_readonly("cached_tokens", [](const PyEvent& e) { return e.event.cached_tokens; })
      .def_property_readonly("prompt_computed", [](const PyEvent& e) { return e.event.prompt_computed; })
      .def_property_readonly("finish_reason", [](const PyEvent& e) { return e.event.finish_reason; })
      .def_property_readonly("guessed", [](const PyEvent& e) { return e.event.guessed; })
      .def_property_readonly("guessed_right", [](const PyEvent& e) { return e.event.guessed_right; })
      .def_property_readonly("stop_token_id", [](const PyEvent& e) { return e.event.stop_token_id; })
      .def_property_readonly("error", [](const PyEvent& e) { return e.event.error; })
      .def_property_readonly("not_finite", [](const PyEvent& e) { return e.event.not_finite; })
      .def_property_readonly("only_token", [](const PyEvent& e) { return only_token(e.event); });
}

py::list step(Engine& engine) {
  std::vector<TokenEvent> events;
  {
    const WithoutGil no_gil;
    events = engine.step();
  }
  py::list out;
  for (TokenEvent& event : events) {
    py::object logits = logits_array(event);
    out.append(PyEvent{std::move(event), std::move(logits)});
  }
  return out;
}

py::dict group_dict(const GroupStats& group, int64_t block_bytes) {
  py::dict out;
  out["total"] = group.total;
  out["free"] = group.free;
  out["used"] = group.used;
  out["cached"] = group.cached;
  out["bytes"] = group.total * block_bytes;
  return out;
}

py::dict store_dict(const StoreStats& s) {
  py::dict out;
  out["blocks"] = s.blocks;
  out["bytes"] = s.bytes;
  out["written_blocks"] = s.written_blocks;
  out["written_bytes"] = s.written_bytes;
  out["read_blocks"] = s.read_blocks;
  out["read_bytes"] = s.read_bytes;
  out["damaged"] = s.damaged;
  out["pending"] = s.pending;
  return out;
}

// Pictures as Request::images names them: digest as bytes.
int64_t export_blocks(Engine& engine, const std::vector<int64_t>& token_ids,
                      const std::vector<std::pair<py::bytes, int64_t>>& pictures, const std::string& path) {
  std::vector<std::pair<std::string, int64_t>> named;
  for (const auto& [digest, tiles] : pictures) named.emplace_back(std::string(digest), tiles);
  const WithoutGil no_gil;
  return engine.export_blocks(token_ids, named, path);
}

py::dict stats_dict(const Engine& engine) {
  const EngineStats s = engine.stats();
  py::dict blocks, bytes, images, out;
  blocks["global"] = group_dict(s.global, s.global_block_bytes);
  blocks["local"] = group_dict(s.local, s.local_block_bytes);
  bytes["weights"] = s.weight_bytes;
  bytes["kv_cache"] = s.kv_cache_bytes;
  bytes["workspace"] = s.workspace_bytes;
  bytes["images"] = s.images.cached_bytes;
  images["cached"] = s.images.cached;
  images["encoded_tiles"] = s.images.encoded_tiles;
  images["reused"] = s.images.reused;
  out["images"] = images;
  out["running"] = s.scheduler.running;
  out["waiting"] = s.scheduler.waiting;
  out["preemptions"] = s.scheduler.preemptions;
  out["prefix_queries"] = s.scheduler.prefix_queries;
  out["prefix_query_tokens"] = s.scheduler.prefix_query_tokens;
  out["prefix_hit_tokens"] = s.scheduler.prefix_hit_tokens;
  out["prompt_tokens"] = s.prompt_tokens;
  out["generated_tokens"] = s.generated_tokens;
  out["prompt_tokens_per_second"] = s.prompt_tokens_per_second;
  out["generated_tokens_per_second"] = s.generated_tokens_per_second;
  py::dict speculation;
  speculation["sequence_steps"] = s.speculation.sequence_steps;
  speculation["sequence_steps_drafted"] = s.speculation.sequence_steps_drafted;
  speculation["tokens"] = s.speculation.tokens;
  speculation["drafted"] = s.speculation.drafted;
  speculation["accepted"] = s.speculation.accepted;
  speculation["seconds_saved"] = s.speculation.seconds_saved;
  out["speculation"] = speculation;
  out["block_size"] = s.block_size;
  out["blocks"] = blocks;
  out["bytes"] = bytes;
  out["expert_tokens"] = s.expert_tokens;
  if (const auto store = engine.store_stats()) out["store"] = store_dict(*store);
  out["expert_reads"] = s.expert_reads;
  out["steps"] = s.steps;
  return out;
}

py::object file_bytes(const Engine& engine, const std::string& name) {
  if (!engine.file()) return py::none();
  engine.file()->check_unchanged();
  const auto& names = engine.file()->file_names();
  if (std::find(names.begin(), names.end(), name) == names.end()) return py::none();
  const std::span<const std::byte> data = engine.file()->file(name);
  return py::bytes(reinterpret_cast<const char*>(data.data()), data.size());
}

// Dropping the last reference joins threads and unmaps gigabytes: not while other Python threads wait.
struct ReleaseGilDeleter {
  void operator()(Engine* engine) const {
    try {
      const WithoutGil no_gil;
      delete engine;
    } catch (const Error&) {  // the interpreter is ending: the process frees it
    }
  }
};

using EngineHolder = std::unique_ptr<Engine, ReleaseGilDeleter>;

EngineHolder open_engine(const py::object& path, const py::kwargs& given) {
  const EngineOptions options = engine_options(given);
  const std::string file = file_path(path);
  const WithoutGil no_gil;
  return EngineHolder(new Engine(file, options));
}

DummyModel dummy_model(const std::string& config) { return {ModelConfig::from_json(config), {}}; }

EngineHolder open_dummy(const std::string& config, const py::kwargs& given) {
  DummyModel model = dummy_model(config);
  const EngineOptions options = engine_options(given, &model.weights);
  const WithoutGil no_gil;
  return EngineHolder(new Engine(model, options));
}

py::dict plan_dict(const MemoryPlan& plan, int64_t longest) {
  py::dict bytes, blocks, out;
  bytes["weights"] = plan.weights;
  bytes["kv_global"] = (plan.kv.num_global_blocks + plan.kv.spare_blocks) * plan.kv.global_block_bytes;
  bytes["kv_local"] = (plan.kv.num_local_blocks + plan.kv.spare_blocks) * plan.kv.local_block_bytes;
  bytes["workspace"] = plan.workspace;
  bytes["logits"] = plan.logits;
  bytes["vision"] = plan.vision;
  bytes["images"] = plan.images;
  bytes["adapters"] = plan.adapters;
  bytes["batch"] = plan.batch;
  bytes["sampling"] = plan.sampling;
  bytes["scratch"] = plan.scratch.total();
  bytes["driver"] = plan.driver;
  bytes["total"] = plan.total();
  blocks["size"] = plan.kv.block_size;
  blocks["global"] = plan.kv.num_global_blocks;
  blocks["local"] = plan.kv.num_local_blocks;
  out["bytes"] = bytes;
  out["blocks"] = blocks;
  out["max_model_len"] = plan.kv.max_model_len;
  out["max_num_seqs"] = plan.max_num_seqs;
  out["max_batched_tokens"] = plan.max_batched_tokens;
  out["full_sequences"] = plan.full_sequences();
  out["longest_context"] = longest;
  return out;
}

py::dict plan_file(const EngineFile& file, const py::kwargs& given) {
  const EngineOptions options = engine_options(given);
  return plan_dict(plan_engine(file, options), longest_context(file, options));
}

py::dict plan_dummy(const std::string& config, const py::kwargs& given) {
  DummyModel model = dummy_model(config);
  const EngineOptions options = engine_options(given, &model.weights);
  return plan_dict(plan_engine(model, options), longest_context(model, options));
}

// (name, kind, [E, N, K], bytes with scales) of every weight.
py::list weight_list(const std::string& config, const py::kwargs& given) {
  DummyModel model = dummy_model(config);
  engine_options(given, &model.weights);
  py::list out;
  for (const TensorSpec& spec : model_tensors(model.config)) {
    if (spec.is_plain()) continue;
    const Weight w = stored_weight(spec, model.weights);
    out.append(py::make_tuple(spec.name, std::string(weight_kind_name(w.kind)),
                              std::vector<int64_t>{w.num_experts, w.n, w.k},
                              stored_bytes(spec, model.weights).total()));
  }
  return out;
}

py::array_t<int64_t> stored_rows(const TensorSpec& spec, int64_t part, int64_t start, int64_t stop) {
  if (part < 0 || part >= int64_t(spec.parts.size()) || start < 0 || stop < start ||
      stop > spec.parts[size_t(part)].rows)
    throw py::index_error(error_text(spec.name, " has no rows ", start, " to ", stop, " of part ", part));
  py::array_t<int64_t> rows(py::ssize_t(stop - start));
  for (int64_t row = start; row < stop; ++row)
    rows.mutable_at(py::ssize_t(row - start)) = spec.stored_row(size_t(part), row);
  return rows;
}

void bind_shape(py::module_& m) {
  m.def("block_rows", [] { return cpu16::kRows; });
  py::class_<TensorSpec>(m, "TensorSpec", checked_instances())
      .def("__eq__", [](const TensorSpec& a, const TensorSpec& b) { return a == b; })
      .def_readonly("name", &TensorSpec::name)
      .def_property_readonly("role", [](const TensorSpec& s) { return role_name(s.role); })
      .def_readonly("experts", &TensorSpec::experts)
      .def_readonly("n", &TensorSpec::n)
      .def_readonly("k", &TensorSpec::k)
      .def_property_readonly("shard", [](const TensorSpec& s) { return shard_axis_name(s.shard); })
      .def_property_readonly("parts",
                             [](const TensorSpec& s) {
                               std::vector<std::pair<std::string, int64_t>> parts;
                               for (const TensorPart& part : s.parts)
                                 parts.emplace_back(part.name, part.rows);
                               return parts;
                             })
      .def_property_readonly("plain_shape",
                             [](const TensorSpec& s) -> std::optional<std::vector<int64_t>> {
                               if (!s.is_plain()) return std::nullopt;
                               return s.plain_shape();
                             })
      .def("stored_rows", &stored_rows, py::arg("part"), py::arg("start"), py::arg("stop"));
  m.def(
      "list_tensors", [](const std::string& config) { return model_tensors(ModelConfig::from_json(config)); },
      py::arg("config"));
}

}  // namespace

void bind_engine(py::module_& m) {
  bind_event(m);
  bind_shape(m);
  const auto without_gil = py::call_guard<WithoutGil>();
  py::class_<Engine, EngineHolder>(m, "Engine", checked_instances())
      .def(py::init(&open_engine))  // no name to compare: pybind11 (3.1) does not check that it could make it
      .def_static("dummy", &open_dummy, py::arg("config"))
      .def("plan",
           [](const Engine& engine) { return plan_dict(engine.plan(), engine.plan().kv.max_model_len); })
      .def("submit", &Engine::submit, py::arg("request"), without_gil)
      .def("abort", &Engine::abort, py::arg("request_id"), without_gil)
      .def("hold", &Engine::hold, py::arg("request_id"), py::arg("held"), without_gil)
      .def("abort_sequence", &Engine::abort_sequence, py::arg("request_id"), py::arg("index"),
           py::arg("reason"), without_gil)
      .def("step", &step)
      .def("encode_image", &encode_image, py::arg("tiles"))
      .def("has_work", &Engine::has_work, without_gil)
      .def("stats", &stats_dict)
      .def_property_readonly("config",
                             [](const Engine& engine) {
                               return py::module_::import("json").attr("loads")(engine.config().to_json());
                             })
      .def_property_readonly("max_model_len", &Engine::max_model_len)
      .def_property_readonly("max_num_seqs", &Engine::max_num_seqs)
      .def_property_readonly("device", &Engine::device_name)
      .def("file_bytes", &file_bytes, py::arg("name"))
      .def("file_names",
           [](const Engine& engine) {
             return engine.file() ? engine.file()->file_names() : std::vector<std::string>();
           })
      .def("take_store_notes", &Engine::take_store_notes)
      .def("flush_store", &Engine::flush_store, without_gil)
      .def("store_identity", &Engine::store_identity)
      .def("file_identity", &Engine::file_identity)
      .def("export_blocks", &export_blocks, py::arg("token_ids"), py::arg("pictures"), py::arg("path"))
      .def("adopt_blocks", &Engine::adopt_blocks, py::arg("path"), without_gil)
      .def("close", &Engine::close, without_gil);
  m.def("plan", &plan_file, py::arg("file"));
  m.def("plan_config", &plan_dummy, py::arg("config"));
  m.def(
      "auto_kv_format",
      [](const std::string& device, int64_t head_dim) {
        return std::string(kv_kind_name(auto_kv_kind(device, head_dim)));
      },
      py::arg("device"), py::arg("head_dim"));
  m.def("list_weights", &weight_list, py::arg("config"));
}

}  // namespace llama4rt
