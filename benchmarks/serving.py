"""What a server answers in a second, dense, masked and packed, with and without batches; whether its memory stays.

    keras-adavit export model.keras packed.onnx --format onnx --preprocessing
    keras-adavit export model.keras masked.onnx --format onnx --preprocessing --execution masked
    python benchmarks/serving.py dense.onnx masked.onnx packed.onnx --photos FOLDER
    python benchmarks/serving.py packed.onnx --photos FOLDER --memory

Many clients ask at once, a photo a request. The servers run all the time and take turns, so that whatever else the
machine does falls on all; the clients share the processor with them.
"""

import argparse
import contextlib
import itertools
import re
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from turns import processor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from served import ask, served

EARLY, LATE = 200, 2000  # requests after which memory is read


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="as `keras-adavit serve` takes them")
    parser.add_argument("--photos", type=Path, required=True, help="folder of .jpg, .jpeg, .png")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=64, help="in a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="read the memory of a server in place of timing")
    arguments = parser.parse_args()
    photos = sorted(path for path in arguments.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not photos:
        parser.error(f"`--photos` must be a folder with photos. Received: {arguments.photos}")
    print(processor())
    if arguments.memory:
        for model in arguments.models:
            show_memory(model, photos, arguments.clients)
    else:
        show_throughput(arguments, photos)


def show_throughput(arguments, photos):
    """Prints what each model serves, photo by photo and in batches, all servers in turns."""
    kinds = {"one by one": ("--max-batch", 1, "--wait", 0), "in batches": ()}
    with contextlib.ExitStack() as stack:
        addresses = {
            (model, kind): stack.enter_context(served(model, *given))[1]
            for model, (kind, given) in itertools.product(arguments.models, kinds.items())
        }
        found = {key: [] for key in addresses}
        for turn in range(arguments.rounds + 1):  # the first one only warms
            for key, address in addresses.items():
                figures = load(address, photos, arguments.requests, arguments.clients)
                found[key] += [figures] if turn else []
        sizes = {key: mean_batch(address) for key, address in addresses.items()}
    for (model, kind), turns in found.items():
        rate, latency, late = (statistics.median(each) for each in zip(*turns, strict=True))
        print(
            f"{model}, {kind}: {rate:.1f} photos/s, latency {latency:.2f} s in the median, {late:.2f} s at 95 %, "
            f"{sizes[model, kind]:.1f} photos in a batch"
        )


def load(address, photos, count, clients):
    """Photos a second, median latency and that of the slowest twentieth, of so many requests."""

    def timed(number):
        start = time.perf_counter()
        status, told = ask(address, photos[number % len(photos)])
        if status != 200:
            raise SystemExit(f"error: the server said {told}")
        return time.perf_counter() - start

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as executor:
        seconds = sorted(executor.map(timed, range(count)))
    return count / (time.perf_counter() - start), statistics.median(seconds), seconds[int(0.95 * len(seconds))]


def mean_batch(address):
    """Photos in a batch, in the mean of all that the server computed."""
    text = requests.get(f"{address}/metrics", timeout=60).text
    total, count = (float(re.search(rf"^adavit_batch_size_{name} (\S+)", text, re.M)[1]) for name in ("sum", "count"))
    return total / count


def show_memory(model, photos, clients):
    """Prints the resident memory of a server after some requests and after many."""
    with served(model) as (process, address):
        load(address, photos, EARLY, clients)
        early = resident(process)
        load(address, photos, LATE - EARLY, clients)
        late = resident(process)
    print(f"{model}: {early:.0f} MiB after {EARLY} requests, {late:.0f} MiB after {LATE}: {late / early:.3f}")


def resident(process):
    """MiB of memory of a process, on Linux."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) / 1024


if __name__ == "__main__":
    main()
