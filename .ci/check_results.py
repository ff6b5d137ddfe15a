"""Checks what the digits recipe promises: python .ci/check_results.py results.json."""

import json
import sys
from pathlib import Path

results = json.loads(Path(sys.argv[1]).read_text())
dense, adaptive = results["dense"], results["adaptive"]
promises = {
    "the dense model is at least 92 % accurate": dense["top1"] >= 0.92,
    "the adaptive one within 1.5 points of it": adaptive["top1"] >= dense["top1"] - 0.015,
    "and, as it goes on from there, at least 96.5 %": adaptive["top1"] >= 0.965,
    "at no more than half of the MACs": adaptive["macs_share"] <= 0.5,
    "MACs differ between images": adaptive["macs_std"] / adaptive["macs_mean"] > 0.03,
    "blank patches are skipped more often than others": adaptive["blank_keep"] < adaptive["ink_keep"],
}
for promise, kept in promises.items():
    print(f"{'ok    ' if kept else 'BROKEN'} {promise}")
sys.exit(not all(promises.values()))
