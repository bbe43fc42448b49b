#!/usr/bin/env python3
"""Memory of the service: its peak while a model is loaded, and at rest over thousands of requests.

    python3 bench/memory_bench.py build/cpu [--requests 10000]

1. The most that was resident when the service became ready, less the weights and the KV pool as the
   service counts them, beside the model's largest tensor: the rest should be no more.
2. What is resident after each tenth of the requests, on the demo model: it should stay.
Figures go to bench/results.
"""
import argparse
import json
import pathlib
import re
import tempfile

from books_bench import DEMO, Service, load, page

MIB = 1 << 20
MODEL, LARGEST_TENSOR_BYTES = "phi-3-mini-4k", 32064 * 3072 * 2


def memory_bytes(service, name):
    status = pathlib.Path(f"/proc/{service.process.pid}/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", status).group(1))


def load_peak(build):
    print(f"## Peak while {MODEL} is loaded\n\n| weights | ready: most resident, MiB | weights, MiB | KV pool, MiB | all else, MiB |"
          " largest tensor, MiB |\n|---|---:|---:|---:|---:|---:|")
    for weights in ("bf16", "int8", "int4"):
        with Service(build, f"synthetic:{MODEL}", "--weights", weights, "--kv-memory", "512M") as service:
            peak = memory_bytes(service, "VmHWM")
            told = json.loads(page("status"))["model"]
        parts = (peak, told["weight_bytes"], told["kv_bytes"], peak - told["weight_bytes"] - told["kv_bytes"],
                 LARGEST_TENSOR_BYTES)
        print(f"| {weights} | " + " | ".join(f"{part / MIB:.0f}" for part in parts) + " |", flush=True)


def resident_at_rest(build, folder, requests):
    print(f"\n## Resident over {requests} requests of the demo model, 16 callers\n\n| requests | resident, MiB |\n|---:|---:|")
    with Service(build, DEMO) as service:
        for tenth in range(11):
            if tenth > 0:
                load(build, folder, "--concurrency", "16", "--warmup", "0", "--requests", str(requests // 10),
                     "--prompt", "1-200", "--output", "1-40", "--seed", str(tenth))
            print(f"| {tenth * requests // 10} | {memory_bytes(service, 'VmRSS') / MIB:.1f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--requests", type=int, default=10000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        load_peak(arguments.build)
        resident_at_rest(arguments.build, folder, arguments.requests)


if __name__ == "__main__":
    main()
