#!/usr/bin/env bash
# The GPU's first ten minutes: pytest -m gpu, then what measure.py measures, into OUT.
#   bash build/gpu/run.sh OUT [--device cpu] [--seconds 520]
# Takes the folder that pack.sh wrote, whose wheels it unpacks beside torch and transformers.
set -euo pipefail
pack=$(cd "$(dirname "$0")" && pwd)
out=${1:?a folder for the results}; shift
seconds=520 device=cuda
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=$2; shift 2 ;;
    --seconds) seconds=$2; shift 2 ;;
    *) echo "unknown: $1" >&2; exit 2 ;;
  esac
done
started=$SECONDS
python=${PYTHON:-python3}
mkdir -p "$out"; out=$(cd "$out" && pwd)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
for wheel in "$pack"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$work/site"; done
export PYTHONPATH="$pack/code:$pack/code/benchmarks:$work/site" PYTHONDONTWRITEBYTECODE=1
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false ENSWEEP_CACHE="$work/cache"
if [ "$device" = cpu ]; then export OMP_NUM_THREADS=1; fi  # a rehearsal beside other work
cd "$pack/code"

echo "== tests"
timeout 150 "$python" -m pytest -m gpu tests/trainable/test_gpu.py >"$out/pytest.txt" 2>&1 || true
tail -n 25 "$out/pytest.txt"

echo "== measurements"
left=$((seconds - (SECONDS - started)))
timeout $((left + 20)) "$python" benchmarks/gpu/measure.py --device "$device" --seconds "$left" \
  --encoder "$pack/encoder" --data-dir "$pack/data" --output "$out/results.json" || true
"$python" benchmarks/gpu/report.py "$out/results.json" | tee "$out/report.md"
echo "== $((SECONDS - started)) s"
