#!/usr/bin/env bash
# gpu_check.sh [STAGE...]: everything that needs a GPU, in stages of less than 9 minutes each, on a machine with CUDA
# 13.0, Python 3.12 with numpy, pybind11 and torch, CMake, ninja and no network. Without arguments: all stages.
#   build      the kernels' tests, the conformance program and the package, with nvcc
#   test       PTX functions against the emulator, the kernels' tests, doctor, a model end to end
#   sanitize   compute-sanitizer on the small tests
#   decode     Scout's shape, int4, random weights: decode at batch 1 to 256 and contexts 1k to 1M
#   prefill    the same: prefill of 512 to 16k tokens
#   torch      torch's bf16 matmul and attention of the same shapes, to compare with
# OUT (default build/gpu-check) collects logs, and results as JSON: summary.json and bench-*.json are ready to commit.
# summary.json is written whatever happens, and keeps the steps of earlier calls. Without a GPU the build is still made,
# and every other stage is noted as skipped.
# GPU_CHECK_DRY=1 goes through the motions on a machine without a GPU: builds for the CPU and runs what can run.
#
# Its GPU half has not run so far: no GPU was at hand. The first to run it should expect to mend it.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-build/gpu-check}
build=${BUILD:-build/gpu}
site=$PWD/$build/site
dry=${GPU_CHECK_DRY:-}
python=${PYTHON:-python3}
jobs=${JOBS:-$(nproc)}
mkdir -p "$out/steps"
failed=0
export PYTHONPATH=$site LLAMA4RT_CACHE=$PWD/$build/cache

# step NAME SECONDS COMMAND...: runs it with a time limit, keeps its output, and notes how it ended.
step() {
  local name=$1 limit=$2 start=$SECONDS status=0
  shift 2
  echo "== $name"
  timeout "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
  tail -n 3 "$out/$name.log"
  echo "\"$name\": {\"status\": $status, \"seconds\": $((SECONDS - start))}" >"$out/steps/$name"
  [ "$status" = 0 ] || failed=1
  return "$status"
}

# skip STAGE WHY: notes it.
skip() {
  echo "== $1: skipped, $2"
  echo "\"$1\": {\"skipped\": \"$2\"}" >"$out/steps/$1"
  failed=1
}

# bench NAME SECONDS OPTIONS...: one JSON of the built-in benchmark.
bench() {
  local name=$1 limit=$2 model=(--config scout --load dummy --weights int4 --device cuda:0)
  shift 2
  [ -z "$dry" ] || model=(--config tiny --load dummy --weights int4 --device cpu)
  step "bench-$name" "$limit" bash -c '"$@" >"$0.tmp" && mv "$0.tmp" "$0"' "$out/bench-$name.json" \
    "$python" -m llama4rt bench "${model[@]}" -o json "$@"
}

stage_build() {
  local cuda=ON targets="llama4rt_gpu_tests llama4rt_ptx_conformance"
  [ -z "$dry" ] || { cuda=OFF targets=; }
  step configure 120 cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DLLAMA4RT_CUDA=$cuda \
    -DLLAMA4RT_TESTS=ON -DLLAMA4RT_PYTHON=ON -DPython_EXECUTABLE="$(command -v "$python")" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" || return
  # shellcheck disable=SC2086
  step build 520 cmake --build "$build" -j "$jobs" --target _core llama4rt_ptx_conformance_emulated $targets || return
  step install 30 bash -c "rm -rf '$site' && cmake --install $build --prefix '$site' && cp -r python/llama4rt '$site/'"
}

stage_test() {
  step emulated 60 bash -c "$build/tests/cpp/llama4rt_ptx_conformance_emulated >$out/ptx-emulated.json"
  step doctor 30 "$python" -m llama4rt doctor --require "$([ -n "$dry" ] && echo cpu || echo cuda)"
  step plan 30 bash -c "'$python' -m llama4rt plan --config scout -c 1M -n 8 --gpu-memory 140GiB --json >$out/plan-scout.json"
  [ -z "$dry" ] || return 0
  step device 60 bash -c "$build/tests/cpp/gpu/llama4rt_ptx_conformance >$out/ptx-device.json"
  step conformance 30 "$python" scripts/compare_conformance.py "$out/ptx-emulated.json" "$out/ptx-device.json"
  step gpu-tests 240 "$build/tests/cpp/gpu/llama4rt_gpu_tests"
}

stage_sanitize() {
  [ -z "$dry" ] || return 0
  command -v compute-sanitizer >/dev/null || { echo "no compute-sanitizer here"; return 0; }
  local tool
  for tool in memcheck racecheck initcheck synccheck; do
    step "sanitizer-$tool" 120 compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$build/tests/cpp/gpu/llama4rt_gpu_tests" every_kind stays_alone
  done
}

stage_decode() {
  if [ -n "$dry" ]; then
    bench decode-1k 120 -p 0 -n 8 -d 128 -b 1,4 -r 2
    return
  fi
  bench decode-1k 240 -p 0 -n 64 -d 1024 -b 1,8,64,256 -r 3
  bench decode-128k 150 -p 0 -n 32 -d 131072 -b 1,8,64 -r 3
  bench decode-1m 150 -p 0 -n 32 -d 1048576 -b 1,8 -r 3
  # What overlapping kernels, and steps submitted ahead, are worth.
  bench decode-1k-kernels-apart 90 --no-cuda-overlap -p 0 -n 64 -d 1024 -b 1,8 -r 3
  bench decode-1k-steps-apart 90 --no-cuda-run-ahead -p 0 -n 64 -d 1024 -b 1,8 -r 3
}

stage_prefill() {
  if [ -n "$dry" ]; then
    bench prefill 120 -p 64,128 -n 0 -d 0 -b 1 -r 2
    return
  fi
  bench prefill 400 -p 512,2048,8192,16384 -n 0 -d 0 -b 1 -r 3
}

stage_torch() {
  step torch 300 "$python" benchmarks/gpu/torch_baselines.py ${dry:+--device cpu --small} --json "$out/bench-torch.json"
}

gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1)

write_summary() {
  {
    echo "{"
    echo "  \"gpu\": \"${gpu:-none}\","
    echo "  \"commit\": \"$(git describe --always --dirty --abbrev=40 2>/dev/null || echo unknown)\","
    echo "  \"steps\": {"
    for file in "$out"/steps/*; do [ ! -f "$file" ] || sed 's/^/    /; s/$/,/' "$file"; done | sed '$ s/,$//'
    echo "  }"
    echo "}"
  } >"$out/summary.json"
}
trap write_summary EXIT
trap 'exit 130' INT TERM

[ $# -gt 0 ] || set -- build test sanitize decode prefill torch
for stage in "$@"; do
  case $stage in
  build) stage_build ;;
  test | sanitize | decode | prefill | torch)
    if [ -z "$gpu" ] && [ -z "$dry" ]; then
      skip "$stage" "nvidia-smi shows no GPU here (GPU_CHECK_DRY=1 goes through the motions without)"
    else
      rm -f "$out/steps/$stage" # skipped before
      "stage_$stage"
    fi
    ;;
  *) echo "unknown stage $stage" >&2 && exit 2 ;;
  esac
done

write_summary
cat "$out/summary.json"
exit "$failed"
