"""Measures what an accelerator makes of dense, masked and packed execution, in one command and a given time.

    benchmarks/gpu.sh
    benchmarks/gpu.sh --seconds 150 --backends torch jax
    benchmarks/gpu.sh --preset ada_deit_tiny_patch16_224 --image-size 64 --batches 8 1    # on a processor

Each backend runs in a process of its own, one after the other, so that none disturbs another: inference of each
precision and batch, then a training step. Last comes the input pipeline. Everything is written to
`benchmarks/results/gpu-NAME.json` as soon as it is measured, so that a kill loses nothing; what fails is written down
with its message, and the rest goes on. A backend that is not installed, or sees no accelerator on a machine that has
one, is left out. This process imports none of the backends: `gpu_backend.py` measures.
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from turns import processor

HERE = Path(__file__).resolve().parent
WEIGHTS = {"tensorflow": 2.0, "torch": 1.0, "jax": 2.0, "input pipeline": 0.5}  # of the time; who compiles needs more
TAIL = 2000  # characters of a process's last words that are kept
REMARK = re.compile(r"WARNING: All log messages before absl|[IWE]\d{4} ")  # of TensorFlow, which are none of them


def main():
    arguments = parse_arguments()
    end = time.time() + arguments.seconds
    name = accelerator()
    output = arguments.output or HERE / "results" / f"gpu-{slug(name or processor())}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("{}")
    head = {
        "accelerator": name,
        "processor": processor(),
        "python": sys.version.split()[0],
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "arguments": {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()},
        "backends": {},
    }
    update(output, lambda found: found.update(head))
    print(f"{name or processor()}; results go to {output}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        parts = [backend for backend in arguments.backends if is_installed(backend, output)]
        parts += ["input pipeline"] if arguments.pipeline else []
        for number, part in enumerate(parts):
            share = WEIGHTS[part] / sum(WEIGHTS[each] for each in parts[number:])
            deadline = time.time() + (end - time.time()) * share
            run_part(part, arguments, output, folder, deadline, name is not None)
    update(output, lambda found: found.update(seconds=round(time.time() - end + arguments.seconds, 1)))
    print(f"written: {output}", flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="time for everything")
    parser.add_argument("--preset", default="ada_deit_small_patch16_224", help="name of the model")
    parser.add_argument("--image-size", type=int, default=224, help="side of its images in pixels, a multiple of 16")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 256, 1], help="the most important first")
    choices = ["float32", "bfloat16", "float16"]
    parser.add_argument("--precisions", nargs="+", default=choices[:2], choices=choices)
    choices = ["tensorflow", "torch", "jax"]
    parser.add_argument("--backends", nargs="+", default=choices, choices=choices)
    parser.add_argument("--macs", type=float, default=0.5, help="share of the dense model's MACs of the gated one")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each model")
    parser.add_argument("--train-batch", type=int, default=64, help="images of a training step; 0: do not train")
    parser.add_argument("--images", type=Path, help="folder of images; made up if not given")
    parser.add_argument("--no-pipeline", dest="pipeline", action="store_false", help="leave the input pipeline out")
    parser.add_argument("--output", type=Path, help="file to write in place of results/gpu-NAME.json")
    return parser.parse_args()


def accelerator():
    """The name of the accelerator, of which its driver knows more than a backend, or `None`."""
    for command in (["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], ["rocm-smi", "--showproductname"]):
        try:
            found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        except (OSError, subprocess.SubprocessError):
            continue
        lines = [line.strip() for line in found.stdout.splitlines() if line.strip(" =-")]
        if lines:
            return lines[0]
    return "an accelerator" if any(Path("/dev", name).exists() for name in ("nvidia0", "kfd")) else None


def slug(name):
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def is_installed(backend, output):
    if importlib.util.find_spec(backend):
        return True
    skip(backend, "it is not installed", output)
    return False


def skip(part, why, output):
    """Says, and writes down, that a part is left out."""
    print(f"{part} is left out: {why}", flush=True)
    update(output, lambda found: found["backends"].setdefault(part, {}).update(left_out=why))


def run_part(part, arguments, output, folder, deadline, has_accelerator):
    """Runs a part in a process of its own, which ends a little after its deadline at the latest."""
    command = [sys.executable]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    if part == "input pipeline":
        found = Path(folder) / "pipeline.json"
        command += [str(HERE / "input_pipeline.py"), "--json", str(found), "--batch", "64", "--rounds", "3"]
        command += [str(arguments.images)] if arguments.images else []
        environment["CUDA_VISIBLE_DEVICES"] = ""
    else:
        given = {**vars(arguments), "images": str(arguments.images) if arguments.images else None}
        given |= {"output": str(output), "weights": f"{folder}/weights.npz", "deadline": deadline}
        command += [str(HERE / "gpu_backend.py"), json.dumps(given | {"has_accelerator": has_accelerator})]
        environment["KERAS_BACKEND"] = part
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    print(f"{part}: {deadline - time.time():.0f} seconds", flush=True)
    start = time.time()
    with open(Path(folder) / "words.txt", "w+") as words:
        process = subprocess.Popen(command, env=environment, stderr=words)
        try:
            code = process.wait(max(1.0, deadline + 5 - time.time()))
            failure = f"exit code {code}" if code else None
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            failure = "stopped at its time limit"
        finally:
            process.kill()
        words.seek(0)
        last = "".join(line for line in words if not REMARK.match(line))[-TAIL:].strip()
    entry = {"seconds": round(time.time() - start, 1)}
    if failure:
        print(f"{part}: {failure}\n{last}", flush=True)
        entry |= {"failure": failure, "last_words": last}
    if part == "input pipeline":
        entry |= json.loads(found.read_text()) if found.is_file() else {}
        update(output, lambda found: found.update(input_pipeline=entry))
    else:
        update(output, lambda found: found["backends"].setdefault(part, {}).update(entry))


def update(path, change):
    """Changes what is in a JSON file, which is whole at any time."""
    path = Path(path)
    found = json.loads(path.read_text())
    change(found)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(found, indent=1) + "\n")
    unfinished.replace(path)


if __name__ == "__main__":
    main()
