#!/usr/bin/env bash
# All that run.sh needs on a machine with a GPU and nothing but Python 3.12, torch and transformers:
#   bash benchmarks/gpu/pack.sh build/gpu [--data-dir DATA] [--python 3.12]
# Ends with 1 where it came to more than 60 MiB.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
exec "${PYTHON:-.venv/bin/python}" benchmarks/gpu/pack.py "$@"
