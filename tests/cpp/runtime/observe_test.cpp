// Observed engines: nothing changes by being looked at, and nothing is left out.
#include "ops/observe.h"

#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "model/tiny_engine.h"
#include "runtime/drive_engine.h"
#include "runtime/engine/engine.h"
#include "test.h"

namespace llama4rt {
namespace {

using namespace test;

class Recorder final : public OpsObserver {
 public:
  void before(const OpCall& call) override { started = call.op; }
  void after(const OpCall& call) override {
    CHECK_EQ(started, call.op);
    names.emplace_back(call.op);
    ++times[call.op];
    for (const Weight* w : call.weights) CHECK(w->data != nullptr);
    CHECK(!call.outputs.empty() && call.outputs[0].tensor);
    if (std::string(call.op) == "linear") {
      const Tensor& out = call.outputs[0].tensor;
      last_linear.resize(size_t(out.numel()));
      for (int64_t r = 0; r < out.size(0); ++r)
        std::memcpy(last_linear.data() + r * out.size(1), out.row<float>(r),
                    size_t(out.size(1)) * sizeof(float));
    }
  }

  std::string started;
  std::vector<std::string> names;
  std::map<std::string, int> times;
  std::vector<float> last_linear;
};

std::unique_ptr<Device> observed(Recorder& recorder) {
  return std::make_unique<ObservingDevice>(make_device("cpu", {.num_threads = 2}), recorder);
}

TEST(an_observed_engine_computes_the_same) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  std::mt19937 random(3);
  std::vector<Request> requests;
  for (size_t length : {1, 40, 130}) requests.push_back(greedy(random_prompt(random, length)));
  Engine plain(dir / "m.l4e", small_options());
  Recorder recorder;
  Engine engine(dir / "m.l4e", small_options(), observed(recorder));
  CHECK(tokens_of(run_all(engine, requests)) == tokens_of(run_all(plain, requests)));
}

TEST(every_op_of_a_step_is_seen_in_order) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  Recorder recorder;
  Engine engine(dir / "m.l4e", small_options(), observed(recorder));
  Request request = greedy({5, 6, 7});
  request.return_logits = true;
  const Outputs outputs = run_all(engine, {request});

  std::vector<std::string> expected = {"embed"};
  for (const bool moe : tiny_config().moe_layers) {
    for (const char* op : {"rmsnorm", "linear", "prepare_qkv", "paged_attention", "linear_add", "rmsnorm"})
      expected.emplace_back(op);
    for (const char* op :
         moe ? std::vector{"route", "moe_gate_up", "moe_down_add"} : std::vector{"gate_up", "linear_add"})
      expected.emplace_back(op);
  }
  for (const char* op : {"gather_rows", "rmsnorm", "linear"}) expected.emplace_back(op);
  CHECK(recorder.names == expected);
  CHECK(recorder.last_linear == outputs.begin()->second.logits);  // the head comes last
}

TEST(the_tower_s_ops_are_seen_too) {
  const TempDir dir;
  TinyEngine spec;
  spec.config.vision = tiny_vision_config(2);
  write_tiny_engine(dir / "m.l4e", spec);
  std::vector<uint8_t> tile(size_t(kTinySide * kTinySide * 3));
  std::mt19937 random(4);
  for (uint8_t& value : tile) value = uint8_t(random());
  Engine plain(dir / "m.l4e", small_options());
  Recorder recorder;
  Engine engine(dir / "m.l4e", small_options(), observed(recorder));
  CHECK(engine.encode_image(tile) == plain.encode_image(tile));
  for (const char* op : {"layernorm", "add_bias", "gelu", "rotate_heads", "tile_attention"})
    CHECK(recorder.times[op] >= 1);
}

}  // namespace
}  // namespace llama4rt
