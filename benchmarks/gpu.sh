#!/bin/sh
# Measures on whatever accelerator is there, or on the processor: `benchmarks/gpu.sh --help`.
exec "${PYTHON:-$(command -v python || command -v python3)}" "$(dirname "$0")/gpu.py" "$@"
