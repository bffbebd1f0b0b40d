// The choice of CPU table: the forced one is the one in use, and a wrong name is a typed error.
#include "cpu/dispatch.h"

#include <set>

#include "ops/conformance.h"

namespace llama4rt::test {

TEST(the_forced_table_is_the_one_in_use) {
  std::set<const cpu::Kernels*> tables;
  for (const std::string& isa : cpu::supported_isas()) {
    SCOPE(isa);
    CHECK_EQ(cpu::kernels_by_name(isa).isa, isa);
    tables.insert(&cpu::kernels_by_name(isa));
    const auto device = cpu_device(isa, 2);
    CHECK_EQ(device->name(), "cpu");
    CHECK_EQ(device->num_threads(), 2);
    CHECK(device->describe().find("cpu " + isa + ",") != std::string::npos);
  }
  CHECK_EQ(tables.size(), cpu::supported_isas().size());
}

TEST(scalar_runs_everywhere_and_comes_first) { CHECK_EQ(cpu::supported_isas().front(), "scalar"); }

TEST(an_unknown_table_is_refused) {
  CHECK_THROWS(kConfig, cpu_device("avx9000", 1));
  CHECK_THROWS(kConfig, cpu::kernels_by_name(""));
}

TEST(an_unknown_device_is_refused) {
  CHECK_THROWS(kConfig, make_device("gpu", {.num_threads = 1}));
  CHECK_THROWS(kConfig, make_device("", {}));
  CHECK_THROWS(kConfig, make_device("cuda:0", {.num_threads = 1}));
}

}  // namespace llama4rt::test
