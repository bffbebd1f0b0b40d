// Times ops on the CPU and compares them with what the machine can do, measured in the same run.
//   llama4rt_bench_ops [--threads N] [--rounds N] [--activations int8|int16] [--processor-time] [--json FILE]
//   [--commit HASH] [--note TEXT] [FILTER...]
// --processor-time counts the seconds that our threads ran instead of those that passed: with one thread, on a machine
// that others use too. Cases of a group take turns, `rounds` times; the median counts. LLAMA4RT_CPU_ISA chooses the
// table.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <string>
#include <vector>

#include "base/json.h"
#include "bench_cases.h"
#include "cpu/machine_limits.h"

namespace llama4rt::bench {
namespace {

constexpr double kSampleSeconds = 0.03;  // one sample repeats a call for about this long

struct Options {
  int threads = 0;
  int rounds = 7;
  std::string activations = "auto";
  bool processor_time = false;
  std::string json;
  std::string commit;
  std::string note;
  std::string command;
  std::vector<std::string> filters;
};

struct Result {
  std::string op, shape;
  double seconds, bytes, flops;  // of one call
  std::string beside;            // the shape of the case it is compared with, or nothing
  double times_as_fast;          // as that one: the median of the rounds' ratios
  double lower, upper;           // quartiles of these
};

double now(bool processor_time) {
  timespec time{};
  clock_gettime(processor_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return double(time.tv_sec) + double(time.tv_nsec) * 1e-9;
}

double seconds_of(const std::function<void()>& run, int calls, bool processor_time) {
  const double start = now(processor_time);
  for (int i = 0; i < calls; ++i) run();
  return (now(processor_time) - start) / calls;
}

// The part-th quantile, between neighbours in proportion; 0.5 is the median.
double quantile(std::vector<double> v, double part) {
  std::sort(v.begin(), v.end());
  const double place = part * double(v.size() - 1);
  const size_t below = size_t(place), above = std::min(below + 1, v.size() - 1);
  return v[below] + (v[above] - v[below]) * (place - double(below));
}

std::vector<Result> time_group(std::vector<BenchCase>& group, const Options& options) {
  std::vector<int> calls;
  for (BenchCase& c : group) {
    c.run();  // pages and buffers
    calls.push_back(
        std::max(1, int(kSampleSeconds / std::max(seconds_of(c.run, 1, options.processor_time), 1e-7))));
  }
  std::vector<std::vector<double>> samples(group.size());
  for (int round = 0; round < options.rounds; ++round)
    for (size_t i = 0; i < group.size(); ++i)
      samples[i].push_back(seconds_of(group[i].run, calls[i], options.processor_time));
  std::vector<Result> results;
  for (size_t i = 0; i < group.size(); ++i) {
    const BenchCase& c = group[i];
    Result result = {c.op, c.shape, quantile(samples[i], 0.5), c.bytes, c.flops, "", 0, 0, 0};
    if (c.beside >= 0) {
      std::vector<double> ratios;
      for (size_t round = 0; round < samples[i].size(); ++round)
        ratios.push_back(samples[size_t(c.beside)][round] / samples[i][round]);
      result.beside = group[size_t(c.beside)].shape;
      result.times_as_fast = quantile(ratios, 0.5);
      result.lower = quantile(ratios, 0.25), result.upper = quantile(ratios, 0.75);
    }
    results.push_back(std::move(result));
  }
  return results;
}

bool wanted(const std::vector<std::string>& filters, const std::string& name) {
  return filters.empty() || std::any_of(filters.begin(), filters.end(), [&](const std::string& f) {
           return name.find(f) != std::string::npos;
         });
}

std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(": ") + 2);
  return "unknown";
}

// Of the last minute: what else runs.
double load_average() {
  double load = 0;
  return getloadavg(&load, 1) == 1 ? load : 0;
}

// An object of names and values in turn; values move only, so an initializer list will not do.
template <class... Rest>
void add_members(json::Object& object, std::string name, json::Value value, Rest&&... rest) {
  object.emplace_back(std::move(name), std::move(value));
  if constexpr (sizeof...(rest) > 0) add_members(object, std::forward<Rest>(rest)...);
}
template <class... Members>
json::Object object_of(Members&&... members) {
  json::Object object;
  add_members(object, std::forward<Members>(members)...);
  return object;
}

json::Value report(const Options& options, const Device& device, const cpu::MachineLimits& limits,
                   const std::vector<Result>& results) {
  json::Array rows;
  for (const Result& r : results) {
    json::Object row =
        object_of("op", r.op, "shape", r.shape, "seconds", r.seconds, "bytes", r.bytes, "flops", r.flops,
                  "bandwidth_fraction", r.bytes / r.seconds * 1e-9 / limits.read_gbps, "fma_fraction",
                  r.flops / r.seconds * 1e-9 / limits.fma_gflops);
    if (!r.beside.empty())
      add_members(row, "beside", r.beside, "times_as_fast", r.times_as_fast, "lower_quartile", r.lower,
                  "upper_quartile", r.upper);
    rows.push_back(std::move(row));
  }
  json::Object machine =
      object_of("cpu", cpu_model(), "threads", device.num_threads(), "read_gbps", limits.read_gbps,
                "fma_gflops", limits.fma_gflops, "int8_gops", limits.int8_gops);
  return object_of("benchmark", "ops", "version", LLAMA4RT_VERSION, "commit", options.commit, "machine",
                   std::move(machine), "backend", device.describe(), "rounds", options.rounds, "clock",
                   options.processor_time ? "processor" : "wall", "command", options.command, "note",
                   options.note, "load_average", load_average(), "results", std::move(rows));
}

Options parse(int argc, char** argv) {
  Options options;
  options.command = "llama4rt_bench_ops";
  for (int i = 1; i < argc; ++i) options.command += std::string(" ") + argv[i];
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const auto value = [&] {
      LLAMA4RT_CHECK(kConfig, i + 1 < argc, arg, " needs a value");
      return std::string(argv[++i]);
    };
    if (arg == "--threads")
      options.threads = std::atoi(value().c_str());
    else if (arg == "--rounds")
      options.rounds = std::max(1, std::atoi(value().c_str()));
    else if (arg == "--activations")
      options.activations = value();
    else if (arg == "--processor-time")
      options.processor_time = true;
    else if (arg == "--json")
      options.json = value();
    else if (arg == "--commit")
      options.commit = value();
    else if (arg == "--note")
      options.note = value();
    else if (arg.starts_with("--"))
      throw Error(ErrorKind::kConfig, arg +
                                          " is unknown; there are --threads, --rounds, --activations, "
                                          "--processor-time, --json, --commit, --note and filters");
    else
      options.filters.push_back(arg);
  }
  return options;
}

// The machine is measured before and after: the better of the two counts, so that a busy moment makes our
// fractions smaller and never larger.
cpu::MachineLimits better(const cpu::MachineLimits& a, const cpu::MachineLimits& b) {
  return {std::max(a.read_gbps, b.read_gbps), std::max(a.fma_gflops, b.fma_gflops),
          std::max(a.int8_gops, b.int8_gops)};
}

void run(const Options& options) {
  const auto device = make_device(
      "cpu", {.num_threads = options.threads, .activations = activations_by_name(options.activations)});
  cpu::MachineLimits limits = cpu::measure_machine(options.threads);
  std::vector<Result> results;
  for (const BenchGroup& group : groups()) {
    if (!wanted(options.filters, group.name)) continue;
    std::vector<BenchCase> made = group.make(*device);
    for (Result& r : time_group(made, options)) results.push_back(std::move(r));
  }
  limits = better(limits, cpu::measure_machine(options.threads));

  std::printf("%s, %s: read %.1f GB/s, fma %.0f GFLOP/s\n\n", cpu_model().c_str(), device->describe().c_str(),
              limits.read_gbps, limits.fma_gflops);
  std::printf("%-17s %-60s %12s %9s %6s %9s %6s %s\n", "op", "shape", "time us", "GB/s", "of bw", "GFLOP/s",
              "of fma", " beside plain");
  for (const Result& r : results) {
    const double gbps = r.bytes / r.seconds * 1e-9, gflops = r.flops / r.seconds * 1e-9;
    std::printf("%-17s %-60s %12.1f %9.2f %5.0f%% %9.2f %5.0f%%", r.op.c_str(), r.shape.c_str(),
                r.seconds * 1e6, gbps, 100 * gbps / limits.read_gbps, gflops,
                100 * gflops / limits.fma_gflops);
    if (!r.beside.empty()) std::printf("  %.2f (%.2f to %.2f)", r.times_as_fast, r.lower, r.upper);
    std::printf("\n");
  }
  if (!options.json.empty()) {
    std::ofstream out(options.json);
    out << json::write(report(options, *device, limits, results)) << "\n";
    LLAMA4RT_CHECK(kConfig, out.flush(), "cannot write ", options.json);
  }
}

}  // namespace
}  // namespace llama4rt::bench

int main(int argc, char** argv) {
  try {
    llama4rt::bench::run(llama4rt::bench::parse(argc, argv));
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "llama4rt_bench_ops: %s\n", e.what());
    return 1;
  }
}
