// What goes into an engine: Request, and beside it TokenMask and SuffixIndex, for grammars.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bindings/bindings.h"
#include "model/adapter.h"
#include "runtime/engine/engine.h"
#include "runtime/speculation/ngram_drafter.h"

namespace py = pybind11;

namespace llama4rt {
namespace {

// A wrong value in a request is the caller's mistake about that request, whatever its Python type.
template <class T>
T request_value(const char* field, const char* expected, const py::object& value) {
  try {
    return value.cast<T>();
  } catch (const py::cast_error&) {
    throw Error(ErrorKind::kRequest, error_text(field, " must be ", expected, ", and fit into 64 bits"));
  }
}

template <class T>
void bind_field(py::class_<Request>& c, const char* name, const char* expected, T& (*member)(Request&)) {
  c.def_property(
      name, [member](Request& r) { return member(r); },
      [=](Request& r, const py::object& value) { member(r) = request_value<T>(name, expected, value); });
}

// [(digest, tiles), ...]: bytes, and uint8 [num_tiles, S, S, 3]. The pixels are copied.
std::vector<std::shared_ptr<const ImageInput>> images_from(const py::object& value) {
  using Tiles = py::array_t<uint8_t, py::array::c_style>;
  using Images = std::vector<std::pair<py::bytes, py::array>>;
  std::vector<std::shared_ptr<const ImageInput>> images;
  for (const auto& [digest, tiles] :
       request_value<Images>("images", "a list of (bytes, uint8 array)", value)) {
    LLAMA4RT_CHECK(kRequest, Tiles::check_(tiles) && tiles.ndim() == 4 && tiles.shape(3) == 3, "images[",
                   images.size(), "] must hold a C-contiguous uint8 array [tiles, side, side, 3]");
    auto image = std::make_shared<ImageInput>();
    image->digest = std::string(digest);
    const auto* const pixels = static_cast<const uint8_t*>(tiles.data());
    image->tiles.assign(pixels, pixels + tiles.nbytes());
    images.push_back(std::move(image));
  }
  return images;
}

// Python writes through the address: grammar libraries fill masks by pointer, without the GIL.
void bind_token_mask(py::module_& m) {
  py::class_<TokenMask, std::shared_ptr<TokenMask>>(m, "TokenMask", checked_instances())
      .def(py::init([](int64_t vocab_size) {
             LLAMA4RT_CHECK(kRequest, vocab_size > 0 && vocab_size <= INT32_MAX, "vocab_size is ", vocab_size,
                            "; it must be in 1..", INT32_MAX);
             return std::make_shared<TokenMask>(vocab_size);
           }),
           py::arg("vocab_size"))
      .def_property_readonly("address",
                             [](TokenMask& mask) { return reinterpret_cast<uintptr_t>(mask.bits().data()); })
      .def_property_readonly("num_bytes", [](TokenMask& mask) { return mask.bits().size_bytes(); })
      .def(
          "further_address",
          [](TokenMask& mask, size_t row) {
            LLAMA4RT_CHECK(kRequest, row < TokenMask::kMostRows, "row is ", row, "; it must be below ",
                           TokenMask::kMostRows);
            return reinterpret_cast<uintptr_t>(mask.further_bits(row).data());
          },
          py::arg("row"))
      .def_property_readonly("wanted_rows", [](const TokenMask& mask) { return mask.wanted_rows.load(); })
      .def("will_offer", &TokenMask::will_offer, py::arg("will"))
      .def(
          "offer",
          [](TokenMask& mask, std::vector<int32_t> guesses, std::vector<uint8_t> evidence, size_t rows) {
            LLAMA4RT_CHECK(
                kRequest,
                evidence.size() == guesses.size() && rows <= guesses.size() && rows <= TokenMask::kMostRows,
                "an offer of ", guesses.size(), " guesses has ", evidence.size(), " classes and ", rows,
                " masks");
            mask.offer({std::move(guesses), std::move(evidence), rows});
          },
          py::arg("guesses"), py::arg("evidence"), py::arg("rows"))
      .def("publish", &TokenMask::publish)
      .def("fail", &TokenMask::fail, py::arg("error"));
}

// For whoever guesses outside the engine: grammars.
void bind_suffix_index(py::module_& m) {
  py::class_<SuffixIndex>(m, "SuffixIndex", checked_instances())
      .def(py::init<>())
      .def(
          "append", [](SuffixIndex& index, const std::vector<int32_t>& tokens) { index.append(tokens); },
          py::arg("tokens"))
      .def(
          "read_on",
          [](const SuffixIndex& index, int most) {
            std::vector<int32_t> tokens;
            const int agreed = index.read_on(most, tokens);
            std::vector<int> evidence;
            for (size_t i = 0; i < tokens.size(); ++i)
              evidence.push_back(NgramDrafter::evidence(agreed + int(i)));
            return std::pair(tokens, evidence);
          },
          py::arg("most"));
}

void bind_request(py::module_& m) {
  py::class_<Request> c(m, "Request", checked_instances());
  c.def(py::init<>());
  const auto integer = [&c](const char* name, int64_t& (*member)(Request&)) {
    bind_field<int64_t>(c, name, "an integer", member);
  };
  const auto number = [&c](const char* name, double& (*member)(Request&)) {
    bind_field<double>(c, name, "a number", member);
  };
  const auto flag = [&c](const char* name, bool& (*member)(Request&)) {
    bind_field<bool>(c, name, "True or False", member);
  };
  const auto ids = [&c](const char* name, std::vector<int64_t>& (*member)(Request&)) {
    bind_field<std::vector<int64_t>>(c, name, "a list of integers", member);
  };
  ids("prompt_token_ids", [](Request& r) -> auto& { return r.prompt_token_ids; });
  integer("client", [](Request& r) -> auto& { return r.client; });
  integer("n", [](Request& r) -> auto& { return r.n; });
  integer("max_tokens", [](Request& r) -> auto& { return r.max_tokens; });
  integer("min_tokens", [](Request& r) -> auto& { return r.sampling.min_tokens; });
  number("temperature", [](Request& r) -> auto& { return r.sampling.temperature; });
  integer("top_k", [](Request& r) -> auto& { return r.sampling.top_k; });
  number("top_p", [](Request& r) -> auto& { return r.sampling.top_p; });
  number("min_p", [](Request& r) -> auto& { return r.sampling.min_p; });
  number("typical_p", [](Request& r) -> auto& { return r.sampling.typical_p; });
  ids("allowed_token_ids", [](Request& r) -> auto& { return r.sampling.allowed_token_ids; });
  bind_field<std::vector<std::vector<int64_t>>>(c, "bad_words", "a list of lists of integers",
                                                [](Request& r) -> auto& { return r.sampling.bad_words; });
  number("repetition_penalty", [](Request& r) -> auto& { return r.sampling.repetition_penalty; });
  number("presence_penalty", [](Request& r) -> auto& { return r.sampling.presence_penalty; });
  number("frequency_penalty", [](Request& r) -> auto& { return r.sampling.frequency_penalty; });
  bind_field<std::optional<int64_t>>(c, "seed", "an integer or None",
                                     [](Request& r) -> auto& { return r.seed; });
  ids("prediction", [](Request& r) -> auto& { return r.prediction; });
  ids("stop_token_ids", [](Request& r) -> auto& { return r.stop_token_ids; });
  flag("ignore_eos", [](Request& r) -> auto& { return r.ignore_eos; });
  integer("logprobs", [](Request& r) -> auto& { return r.sampling.logprobs; });
  integer("prompt_logprobs", [](Request& r) -> auto& { return r.prompt_logprobs; });
  flag("return_logits", [](Request& r) -> auto& { return r.return_logits; });
  integer("score_from", [](Request& r) -> auto& { return r.score_from; });
  integer("assume_computed", [](Request& r) -> auto& { return r.assume_computed; });
  integer("continued_tokens", [](Request& r) -> auto& { return r.continued_tokens; });
  flag("use_prefix_cache", [](Request& r) -> auto& { return r.use_prefix_cache; });
  flag("report_progress", [](Request& r) -> auto& { return r.report_progress; });
  bind_field<std::vector<std::shared_ptr<TokenMask>>>(c, "masks", "a list of TokenMask",
                                                      [](Request& r) -> auto& { return r.masks; });
  c.def_property(
      "adapter", [](const Request& r) { return std::const_pointer_cast<Adapter>(r.adapter); },
      [](Request& r, const py::object& value) {
        r.adapter = request_value<std::shared_ptr<Adapter>>("adapter", "an Adapter or None", value);
      });
  c.def_property(
      "images",
      [](const Request& r) {
        py::list out;
        for (const auto& image : r.images)
          out.append(py::make_tuple(py::bytes(image->digest), image->tiles.size()));
        return out;
      },
      [](Request& r, const py::object& value) { r.images = images_from(value); });
  c.def_property(
      "logit_bias",
      [](const Request& r) {
        py::dict out;
        for (const auto& [id, bias] : r.sampling.logit_bias) out[py::int_(id)] = bias;
        return out;
      },
      [](Request& r, const py::object& value) {
        const auto biases =
            request_value<std::map<int64_t, double>>("logit_bias", "a dict of token ids and numbers", value);
        r.sampling.logit_bias.assign(biases.begin(), biases.end());
      });
}

}  // namespace

void bind_requests(py::module_& m) {
  bind_token_mask(m);
  bind_suffix_index(m);
  bind_request(m);
}

}  // namespace llama4rt
