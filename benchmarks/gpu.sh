#!/bin/sh
# Measures on whatever accelerator is there, or on the processor: `benchmarks/gpu.sh --help`.
exec "${PYTHON:-python}" "$(dirname "$0")/gpu.py" "$@"
