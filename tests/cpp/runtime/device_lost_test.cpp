// A device that fails for good in the middle of a step: the step says so, and the engine takes no other.
#include "base/device_lost.h"

#include "model/tiny_engine.h"
#include "reference/reference_ops.h"
#include "runtime/drive_engine.h"
#include "test.h"

namespace llama4rt {
namespace {

using namespace test;

// The reference, until so many steps are over.
class FailingOps final : public ReferenceOps {
 public:
  FailingOps(const DeviceTraits& traits, int steps, bool lost)
      : ReferenceOps(traits), steps_(steps), lost_(lost) {}

 private:
  void do_embed(Tensor out, const Weight& table, Tensor ids) override {
    if (steps_-- == 0) {
      if (lost_) throw DeviceLost("planted loss");
      throw Error(ErrorKind::kInternal, "planted error");
    }
    ReferenceOps::do_embed(out, table, ids);
  }

  int steps_;
  const bool lost_;
};

class FailingDevice final : public HostDevice {
 public:
  FailingDevice(int steps, bool lost) : HostDevice(ReferenceDevice().traits()), ops_(traits(), steps, lost) {}
  Ops& ops() override { return ops_; }
  std::string name() const override { return "reference"; }
  std::string describe() const override { return "the reference, which fails"; }

 private:
  FailingOps ops_;
};

TEST(an_engine_whose_device_is_lost_takes_no_step) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  Engine engine(dir / "m.l4e", small_options(), std::make_unique<FailingDevice>(4, true));
  for (int i = 0; i < 2; ++i) engine.submit(greedy({5, 6, 7}));
  int steps = 0;
  std::string first, second;
  while (first.empty() && engine.has_work()) {
    try {
      engine.step();
      ++steps;
    } catch (const DeviceLost& e) {
      first = e.what();
    }
  }
  CHECK(steps > 0);
  CHECK(first.find("planted loss") != std::string::npos);
  try {
    engine.step();
  } catch (const Error& e) {
    second = e.what();
  }
  CHECK(second.find("lost its device (planted loss) and must be opened anew") != std::string::npos);
  engine.close();
}

TEST(another_error_of_a_step_ends_its_requests_only) {
  const TempDir dir;
  write_tiny_engine(dir / "m.l4e");
  Engine engine(dir / "m.l4e", small_options(), std::make_unique<FailingDevice>(4, false));
  const Outputs failed = run_all(engine, {greedy({5, 6, 7}), greedy({8, 9})});
  for (const auto& [key, output] : failed) {
    CHECK_EQ(output.finish_reason, "error");
    CHECK(output.error.find("planted error") != std::string::npos);
  }
  for (const auto& [key, output] : run_all(engine, {greedy({5, 6, 7})}))
    CHECK_EQ(output.tokens.size(), size_t(12));
}

}  // namespace
}  // namespace llama4rt
