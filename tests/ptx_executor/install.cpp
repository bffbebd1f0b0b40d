#include "ptx_executor/install.h"

#include <malloc.h>

#include <cstring>
#include <memory>

#include "base/error.h"
#include "ptx_executor/grid.h"
#include "ptx_executor/symbols.h"
#include "simt_emulator/host_runtime.h"

namespace llama4rt::ptx_executor {
namespace {

class Executor final : public simt::OtherExecutor {
 public:
  explicit Executor(const std::string& folder) : library_(folder) {}

  void run(const std::vector<std::shared_ptr<const simt::Launch>>& launches) override {
    std::vector<Request> requests;
    for (const auto& launch : launches) requests.push_back(request(*launch));
    run_stream(std::move(requests), global_);
  }
  void host_wrote(const void* p, size_t bytes) override { global_.host_wrote(p, bytes, GlobalSpace::kHost); }
  void kernel_before_wrote(const void* p, size_t bytes) override {
    global_.host_wrote(p, bytes, GlobalSpace::kKernelBefore);
  }
  int compute_major() const override { return library_.target().starts_with("sm_9") ? 9 : 8; }

  Library& library() { return library_; }
  GlobalSpace& global_space() { return global_; }

 private:
  Request request(const simt::Launch& launch) {
    Request r;
    r.name = launch.name;
    r.program = library_.program(name_of_function(launch.address()));
    r.grid = launch.grid;
    r.threads = launch.threads;
    r.dynamic_shared = launch.dynamic_shared;
    r.overlaps = launch.overlaps;
    r.parameters.assign(size_t(r.program->parameter_bytes), 0);
    const auto arguments = launch.argument_bytes();
    const std::vector<ParameterPlace>& places = r.program->parameters;
    LLAMA4RT_CHECK(kInternal, arguments.size() == places.size(), launch.name, ": ", arguments.size(),
                   " arguments, compiled for ", places.size());
    for (size_t i = 0; i < places.size(); ++i) {
      const auto [value, bytes] = arguments[i];
      LLAMA4RT_CHECK(kInternal, int64_t(bytes) == places[i].bytes, launch.name, ": argument ", i, " has ",
                     bytes, " bytes, compiled for ", places[i].bytes);
      std::memcpy(&r.parameters[size_t(places[i].offset)], value, bytes);
    }
    return r;
  }

  Library library_;
  GlobalSpace global_;
};

std::unique_ptr<Executor> installed;

Executor& the_executor() {
  LLAMA4RT_CHECK(kInternal, installed, "the PTX executor is not installed");
  return *installed;
}

}  // namespace

void install(const std::string& folder) {
  // Blocks come and go with their registers; memory that goes back to the system each time costs more than they do.
  mallopt(M_MMAP_THRESHOLD, 1 << 25);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  installed = std::make_unique<Executor>(folder);
  simt::use_executor(installed.get());
}

Library& library() { return the_executor().library(); }
GlobalSpace& global_space() { return the_executor().global_space(); }

Suspended::Suspended() { simt::use_executor(nullptr); }
Suspended::~Suspended() { simt::use_executor(&the_executor()); }

}  // namespace llama4rt::ptx_executor
