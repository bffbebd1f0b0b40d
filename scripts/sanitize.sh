#!/usr/bin/env bash
# sanitize.sh [--short]: C++ tests and fuzz drivers under AddressSanitizer and UndefinedBehaviorSanitizer, and the tests
# of threaded code under ThreadSanitizer. --short is what CI runs: fewer fuzz inputs.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=200000
[ "${1:-}" = --short ] && runs=10000
# What starts threads, as filters of test names. Not the fork test: the thread sanitizer does not follow forks.
threaded=(
  base/thread_pool weights/pack.rows_are_quantised_alike
  ops/linear.linear_conforms_for_every_token_count ops/experts ops/attention.any_split
  ops/tiles.nothing_is_left model/vision.a_tower
  runtime/engine.takes_requests runtime/engine.survives runtime/engine.on_cpu_agrees runtime/engine.close_is_final
)

export ASAN_OPTIONS=abort_on_error=0:detect_stack_use_after_return=1:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1

build() {  # build NAME SANITIZERS TARGET...
  cmake -S . -B "build/$1" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DLLAMA4RT_PYTHON=OFF -DLLAMA4RT_TESTS=ON \
    -DLLAMA4RT_ASSERTS=ON -DLLAMA4RT_SANITIZE="$2" >/dev/null
  cmake --build "build/$1" "${@:3}"
}

echo "== address and undefined-behaviour sanitizers"
build asan "address;undefined"
build/asan/tests/cpp/llama4rt_tests "--jobs=$(nproc)"
# The threads of an emulated kernel that failed never end, and keep what they had. A fake stack for each of them, which
# use after return needs, would make this ten times slower.
ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0:detect_stack_use_after_return=0 \
  build/asan/tests/cpp/llama4rt_simt_tests "--jobs=$(nproc)"
for driver in build/asan/tests/cpp/llama4rt_*_fuzz; do
  echo "== $(basename "$driver"), $runs inputs"
  "$driver" --runs "$runs"
done

echo "== thread sanitizer"
build tsan thread --target llama4rt_tests
build/tsan/tests/cpp/llama4rt_tests "${threaded[@]}"
