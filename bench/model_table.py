#!/usr/bin/env python3
"""Measures the published Phi-3 shapes on this machine and prints the README's table.

    python3 bench/model_table.py                                   # every shape and weight type; about half an hour
    python3 bench/model_table.py phi-3-mini-4k:int4 phi-3-mini-4k:bf16 --json bench/results/FILE.json

Serves each with synthetic weights, drives it with serve_bench over gRPC (300 tokens in, 60 out, as a support answer
has): one caller for TTFT and tokens per second, then several for the price of 1,000 answers on a busy machine. A type
that does not fit this machine's memory is reported with the service's own words.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

BUILD = Path(__file__).parent.parent / "build/cpu"
MODELS = ["phi-3-mini-4k", "phi-3-mini-128k", "phi-3.5-mini", "phi-3-medium-4k", "phi-3-medium-128k"]
WEIGHTS = ["bf16", "int8", "int4"]
PORT, ADMIN_PORT = 9450, 9451
READY_SECONDS_MAX = 300


def wait_until_ready(service: subprocess.Popen) -> bool:
    """Returns whether the service became ready; False when it ended first."""
    for _ in range(READY_SECONDS_MAX * 5):
        if service.poll() is not None:
            return False
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN_PORT}/readyz", timeout=1):
                return True
        except OSError:
            time.sleep(0.2)
    return False


def load(concurrency: int, requests: int, folder: Path) -> dict:
    """Runs serve_bench and returns its JSON."""
    result = folder / "load.json"
    subprocess.run([BUILD / "bench/serve_bench", "--address", f"127.0.0.1:{PORT}", "--prompt", "300", "--output", "60",
                    "--concurrency", str(concurrency), "--requests", str(requests), "--json", result],
                   check=True, stdout=subprocess.DEVNULL)
    return json.loads(result.read_text())


def resident_bytes(pid: int) -> int:
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()).group(1))


def measure(model: str, weights: str, price: float, concurrency: int) -> dict:
    """Returns the row of one model and weight type."""
    row = {"model": model, "weights": weights, "usd_per_hour": price}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with log.open("w") as out:
            service = subprocess.Popen(
                [BUILD / "service/tuppence", "serve", "--model", f"synthetic:{model}", "--weights", weights, "--kv-memory", "2G",
                 "--port", str(PORT), "--admin-port", str(ADMIN_PORT), "--price-per-hour", str(price)],
                stdout=subprocess.DEVNULL, stderr=out)
        try:
            if not wait_until_ready(service):
                row["refused"] = log.read_text().strip().splitlines()[-1]
                return row
            row["ready_seconds"] = float(re.search(r"ready after ([\d.]+)", log.read_text()).group(1))
            alone = load(1, 2, Path(folder))
            busy = load(concurrency, 2 * concurrency, Path(folder))
            row |= {"memory_gib": resident_bytes(service.pid) / 2**30, "alone": alone, "busy": busy, "concurrency": concurrency}
        finally:
            service.terminate()
            service.wait()
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="MODEL:WEIGHTS", help="default: all")
    parser.add_argument("--price", type=float, default=0.10, help="USD an hour")
    parser.add_argument("--concurrency", type=int, default=8, help="callers of the busy machine")
    parser.add_argument("--json", type=Path, help="write the rows to this file too, after each")
    arguments = parser.parse_args()
    cases = arguments.cases or [f"{model}:{weights}" for model in MODELS for weights in WEIGHTS]
    rows = []
    print("| model | weights | memory GiB | tokens/s alone | TTFT s | tokens/s busy | USD per 1,000 answers |\n|---|---|---:|---:|---:|---:|---:|")
    for case in cases:
        model, weights = case.split(":")
        row = measure(model, weights, arguments.price, arguments.concurrency)
        rows.append(row)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
        if "refused" in row:
            print(f"| {model} | {weights} | {row['refused']} |", flush=True)
            continue
        alone, busy = row["alone"], row["busy"]
        print(f"| {model} | {weights} | {row['memory_gib']:.1f} | {1 / alone['inter_token_seconds']['mean']:.1f} | "
              f"{alone['time_to_first_token_seconds']['p50']:.2f} | {busy['output_tokens_per_second']:.1f} | "
              f"{1000 * busy['usd_per_request']:.3f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
