// Llama4Weights: everything the config implies is asked for, and one error tells all that is wrong.
#include "model/weights.h"

#include <string>

#include "model/tiny_engine.h"
#include "test.h"

namespace llama4rt {
namespace {

using namespace test;

std::string load_error(const std::string& path) {
  const EngineFile file(path);
  try {
    Llama4Weights::load(file);
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kEngineFile);
    return error.what();
  }
  return "";
}

TEST(finds_every_matrix_of_dense_and_moe_layers) {
  const TempDir dir;
  write_tiny_engine(dir / "a.l4e");
  const EngineFile file(dir / "a.l4e");
  const Llama4Weights w = Llama4Weights::load(file);
  CHECK_EQ(w.layers.size(), size_t(4));
  CHECK(!w.layers[0].moe && w.layers[1].moe && !w.layers[2].moe && w.layers[3].moe);
  CHECK_EQ(w.layers[1].moe->experts.gate_up.num_experts, 4);
  CHECK_EQ(w.layers[0].mlp.down.k, 72);
  CHECK_EQ(w.lm_head.n, 96);
}

TEST(lists_all_missing_and_misshapen_tensors) {
  const TempDir dir;
  TinyEngine spec;
  spec.left_out = {"layers.0.attn.o", "layers.3.moe.router", "norm"};
  write_tiny_engine(dir / "missing.l4e", spec);
  const std::string missing = load_error(dir / "missing.l4e");
  CHECK(missing.find("3 tensors do not match") != std::string::npos);
  for (const std::string& name : spec.left_out)
    CHECK(missing.find(name + " is missing") != std::string::npos);

  // The same tensors under a config that means another width.
  TinyEngine other;
  write_tiny_engine(dir / "good.l4e", other);
  std::string bytes = read_file(dir / "good.l4e");
  std::string header = header_text(bytes);
  const std::string field = "\\\"intermediate_size_mlp\\\":72";
  const size_t at = header.find(field);
  CHECK(at != std::string::npos);
  header.replace(at, field.size(), "\\\"intermediate_size_mlp\\\":40");
  write_file(dir / "other.l4e", assemble(header, payload(bytes)));
  const std::string misshapen = load_error(dir / "other.l4e");
  CHECK(misshapen.find("layers.0.mlp.gate_up is cpu16 [1, 160, 64]; expected cpu16 [1, 96, 64]") !=
        std::string::npos);
  CHECK(misshapen.find("layers.2.mlp.down") != std::string::npos);
}

}  // namespace
}  // namespace llama4rt
