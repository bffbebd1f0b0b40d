// ik_llama.cpp as a worker (protocol.py): worker_ik_llama GGUF THREADS CONTEXT BATCH
//
// Its C interface is not llama.cpp's any more, so the Python bindings do not fit. With a build of it in $IK,
// the worker is compiled with
//   g++ -std=c++20 -O2 benchmarks/peers/worker_ik_llama.cpp -o worker_ik_llama
// and the options
//   -I $IK/include -I $IK/ggml/include -L $IK/build/src -L $IK/build/ggml/src -lllama -lggml
//   -Wl,-rpath,$IK/build/src:$IK/build/ggml/src
// and measured by bench_peers.py --ik-llama ./worker_ik_llama
//
// What it gets is what its authors advise for a CPU: tensors repacked when loaded (-rtr), up and gate experts
// merged, its fused operations and flash attention on, which is its default.
#include <llama.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr int kBatchTokens = 2048;  // its default, as of llama.cpp

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class IkLlama {
 public:
  IkLlama(const std::string& path, int threads, int context, int batch) : sequences_(batch) {
    llama_backend_init();
    llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    model_params.repack_tensors = true;
    model_params.use_mmap = false;
    model_params.merge_up_gate_exps = true;
    model_ = llama_model_load_from_file(path.c_str(), model_params);
    if (!model_) throw std::runtime_error("cannot load " + path);
    llama_context_params params = llama_context_default_params();
    params.n_ctx = uint32_t(context * batch);
    params.n_seq_max = uint32_t(batch);
    params.n_batch = kBatchTokens;
    params.n_threads = params.n_threads_batch = uint32_t(threads);
    context_ = llama_init_from_model(model_, params);
    if (!context_) throw std::runtime_error("cannot make a context");
    batch_ = llama_batch_init(kBatchTokens, 0, 1);
  }

  double prefill(int tokens, int depth, int batch) {
    prepare(depth, batch);
    const double start = now();
    for (int s = 0; s < batch; ++s) run(random_rows(tokens, depth, s));
    llama_synchronize(context_);
    return batch * tokens / (now() - start);
  }

  double decode(int tokens, int depth, int batch) {
    depth = std::max(depth, 1);
    prepare(depth, batch);
    const double start = now();
    for (int i = 0; i < tokens; ++i) {
      std::vector<Row> rows;
      for (int s = 0; s < batch; ++s) rows.push_back({random_token(), depth + i, s});
      run(rows, true);
      llama_synchronize(context_);
    }
    return batch * tokens / (now() - start);
  }

  std::vector<int> greedy(const std::vector<int>& prompt, int count) {
    prepare(0, 1);
    std::vector<Row> rows;
    for (int token : prompt) rows.push_back({token, int(rows.size()), 0});
    std::vector<int> ids;
    for (;;) {
      run(rows);
      const float* logits = llama_get_logits_ith(context_, -1);
      ids.push_back(int(std::max_element(logits, logits + llama_n_vocab(model_)) - logits));
      if (int(ids.size()) == count) return ids;
      rows = {{ids.back(), int(prompt.size() + ids.size()) - 1, 0}};
    }
  }

 private:
  struct Row {
    int token, position, sequence;
  };

  int random_token() { return int(random_() % uint64_t(llama_n_vocab(model_))); }
  std::vector<Row> random_rows(int count, int position, int sequence) {
    std::vector<Row> rows;
    for (int i = 0; i < count; ++i) rows.push_back({random_token(), position + i, sequence});
    return rows;
  }

  // `depth` cached tokens in each of `batch` sequences, and nothing else; computed once.
  void prepare(int depth, int batch) {
    for (int s = 1; s < sequences_; ++s) llama_kv_cache_seq_rm(context_, s, -1, -1);
    if (depth == cached_ && depth > 1) {
      llama_kv_cache_seq_rm(context_, 0, depth, -1);
    } else {
      llama_kv_cache_clear(context_);
      run(random_rows(depth, 0, 0));
    }
    cached_ = depth;
    for (int s = 1; s < batch; ++s) llama_kv_cache_seq_cp(context_, 0, s, -1, -1);
    llama_synchronize(context_);
  }

  void run(const std::vector<Row>& rows, bool all_logits = false) {
    for (size_t first = 0; first < rows.size(); first += kBatchTokens) {
      batch_.n_tokens = int32_t(std::min(rows.size() - first, size_t(kBatchTokens)));
      for (int32_t i = 0; i < batch_.n_tokens; ++i) {
        const Row& row = rows[first + size_t(i)];
        batch_.token[i] = row.token;
        batch_.pos[i] = row.position;
        batch_.n_seq_id[i] = 1;
        batch_.seq_id[i][0] = row.sequence;
        batch_.logits[i] = int8_t(all_logits || first + size_t(i) + 1 == rows.size());
      }
      if (const int status = llama_decode(context_, batch_))
        throw std::runtime_error("llama_decode returned " + std::to_string(status));
    }
  }

  const int sequences_;
  llama_model* model_;
  llama_context* context_;
  llama_batch batch_;
  std::mt19937_64 random_{4};
  int cached_ = 0;
};

// Of a line that protocol.py wrote: the number, and the numbers of the list, behind "name":.
std::vector<int> numbers(const std::string& line, const std::string& name) {
  const size_t found = line.find('"' + name + "\":");
  if (found == std::string::npos) throw std::runtime_error(name + " is missing");
  const char* p = line.c_str() + found + name.size() + 3;
  std::vector<int> all;
  while (*p == ' ' || *p == '[' || *p == ',') ++p;
  for (char* end; (*p >= '0' && *p <= '9') || *p == '-'; p = end) {
    all.push_back(int(std::strtol(p, &end, 10)));
    while (*end == ',' || *end == ' ') ++end;
    if (*end == '"') break;  // the next name
  }
  return all;
}
int number(const std::string& line, const std::string& name) { return numbers(line, name).at(0); }

long long peak_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("VmHWM:", 0) == 0) return std::atoll(line.c_str() + 6) * 1024;
  throw std::runtime_error("/proc/self/status has no VmHWM");
}

std::string answer(IkLlama& program, const std::string& line) {
  const auto asks = [&](const char* what) {
    return line.find(std::string("\"do\": \"") + what + '"') != std::string::npos;
  };
  if (asks("memory")) return "{\"peak_bytes\": " + std::to_string(peak_bytes()) + "}";
  if (asks("tokens")) {
    std::string ids;
    for (int id : program.greedy(numbers(line, "prompt"), number(line, "count")))
      ids += (ids.empty() ? "" : ", ") + std::to_string(id);
    return "{\"ids\": [" + ids + "]}";
  }
  const int tokens = number(line, "tokens"), depth = number(line, "depth"), batch = number(line, "batch");
  const double speed =
      asks("prefill") ? program.prefill(tokens, depth, batch) : program.decode(tokens, depth, batch);
  return "{\"tokens_per_second\": " + std::to_string(speed) + "}";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "worker_ik_llama GGUF THREADS CONTEXT BATCH\n");
    return 2;
  }
  FILE* answers = fdopen(dup(1), "w");
  dup2(2, 1);  // whatever the library prints goes to stderr
  const auto say = [&](const std::string& text) {
    std::fprintf(answers, "%s\n", text.c_str());
    std::fflush(answers);
  };
  try {
    const double start = now();
    IkLlama program(argv[1], std::atoi(argv[2]), std::atoi(argv[3]), std::atoi(argv[4]));
    say("{\"ready\": true, \"seconds\": " + std::to_string(now() - start) + "}");
    for (std::string line; std::getline(std::cin, line);) {
      try {
        say(answer(program, line));
      } catch (const std::exception& error) {
        say(std::string("{\"error\": \"") + error.what() + "\"}");
      }
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
