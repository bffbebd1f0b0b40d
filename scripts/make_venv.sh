#!/usr/bin/env bash
# make_venv.sh VENV [PYTHON]: creates VENV with PYTHON, or with the first Python on PATH that works and is new enough.
# A name on PATH proves nothing (version managers leave shims for versions that are not active), so each is run.
set -euo pipefail
venv=$1
candidates=("${@:2}")
[ ${#candidates[@]} -gt 0 ] || candidates=(python3.12 python3.11 python3.10 python3.13 python3.14 python3)

works='import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))'
if "$venv/bin/python" -c "$works" 2>/dev/null && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  exit 0
fi
for python in "${candidates[@]}"; do
  if "$python" -c "$works" >/dev/null 2>&1; then
    echo "set-up: $venv with $("$python" --version)"
    rm -rf "$venv"
    exec "$python" -m venv "$venv"
  fi
done
echo "No usable Python 3.10 to 3.14 among: ${candidates[*]}." >&2
echo "It needs the venv and ensurepip modules (on Debian and Ubuntu: apt install python3-venv); or: make PYTHON=/path/to/python" >&2
exit 1
