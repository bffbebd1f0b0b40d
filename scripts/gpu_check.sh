#!/usr/bin/env bash
# gpu_check.sh [OUT]: everything that needs a GPU, in under 9 minutes on a machine with CUDA 13.0, CMake, ninja and no
# network: builds, compares the PTX functions with the emulator, runs the kernels' tests, and compute-sanitizer on the
# small ones. Results go to OUT (default build/gpu-check): summary.json is ready to commit, the logs explain it.
#
# Not run so far: no GPU was at hand when it was written. The first to run it should expect to mend it.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-build/gpu-check}
mkdir -p "$out"
build=build/gpu
jobs=$(nproc)
summary="$out/summary.json"
failed=0

# step NAME SECONDS COMMAND...: runs it with a time limit, keeps its output, and notes how it ended.
results=()
step() {
  local name=$1 limit=$2 start=$SECONDS status=0
  shift 2
  echo "== $name"
  timeout "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
  tail -n 3 "$out/$name.log"
  results+=("  \"$name\": {\"status\": $status, \"seconds\": $((SECONDS - start))}")
  [ "$status" = 0 ] || failed=1
  return "$status"
}

sanitizer() { # sanitizer TOOL: on tests that are small enough for it
  step "sanitizer-$1" 60 compute-sanitizer --tool "$1" --error-exitcode 1 \
    "$build/tests/cpp/gpu/llama4rt_gpu_tests" every_kind_of_int4 stays_alone
}

if step build 300 bash -c "cmake -S . -B $build -G Ninja -DLLAMA4RT_PYTHON=OFF -DLLAMA4RT_TESTS=ON -DLLAMA4RT_CUDA=ON &&
    cmake --build $build -j $jobs --target llama4rt_gpu_tests llama4rt_ptx_conformance llama4rt_ptx_conformance_emulated"; then
  step emulated 30 bash -c "$build/tests/cpp/llama4rt_ptx_conformance_emulated >$out/ptx-emulated.json"
  step device 30 bash -c "$build/tests/cpp/gpu/llama4rt_ptx_conformance >$out/ptx-device.json"
  step conformance 30 python3 scripts/compare_conformance.py "$out/ptx-emulated.json" "$out/ptx-device.json"
  step gpu-tests 120 "$build/tests/cpp/gpu/llama4rt_gpu_tests"
  if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do sanitizer "$tool"; done
  else
    echo "no compute-sanitizer here"
  fi
fi

gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1)
{
  echo "{"
  echo "  \"gpu\": \"${gpu:-none}\","
  echo "  \"commit\": \"$(git describe --always --dirty --abbrev=40 2>/dev/null || echo unknown)\","
  printf '%s' "${results[0]}"
  printf ',\n%s' "${results[@]:1}"
  printf '\n}\n'
} >"$summary"
cat "$summary"
exit "$failed"
