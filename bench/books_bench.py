#!/usr/bin/env python3
"""What keeping books costs, and whether they close: prints a report for bench/results/.

    python3 bench/books_bench.py build/cpu [--requests 100000]

1. A mixed load on the null model: the conservation error, the replay of the store, and the process's
   life as timed from outside, from exec to exit, against the sum of the accounts.
2. Throughput of the demo model at 32 callers with the store and without, in turns.
3. The null model in an open loop, with the store and without: what the closing message waits for it,
   beside the time of a group commit.
"""
import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile

from measured_service import DEMO, ROOT, Service, load, metric, page

PRICE = ["--price-per-hour", "0.526"]


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def conservation(build, folder, requests):
    store = f"{folder}/mixed.db"
    with Service(build, "null", *PRICE, "--usage-store", store) as service:
        done = load(build, "--concurrency", "64", "--requests", str(requests), "--prompt",
                    "1-600", "--output", "1-100")
        error_ns = 1e9 * metric("tuppence_conservation_error_seconds")
    verified = output_of(f"{build}/service/tuppence", "ledger", "verify", store).strip()
    replayed = json.loads(output_of(sys.executable, f"{ROOT}/tests/replay_books.py", store))
    invoice = json.loads(output_of(f"{build}/service/tuppence", "invoice", store, "--format",
                                   "json"))
    agrees = all(replayed[name] == invoice["total"][name]
                 for name in ("held_ns", "cost_nanousd", "requests"))
    assert agrees and replayed["requests"] == requests, (replayed, invoice["total"])
    off_ms = 1e-6 * (service.life_ns - replayed["held_ns"])
    print(f"## Conservation over {requests:,} requests on the null model\n\n"
          f"{done['prompt_tokens']:,} tokens in, {done['completion_tokens']:,} out, "
          f"{done['requests_per_second']:.0f} requests/s. Conservation error {error_ns:.0f} ns.\n"
          f"{verified.split(': ', 1)[1]}\n"
          f"Replayed by tests/replay_books.py: {replayed['held_ns']} ns held, "
          f"{replayed['cost_nanousd']} nano-USD; the invoice says the same.\n"
          f"Timed from outside, exec to exit: {service.life_ns} ns, {off_ms:.1f} ms more than the "
          "accounts (goal 50).\n", flush=True)


def throughput(build, folder, rounds):
    speeds = {"without": [], "with": []}
    for one in range(rounds):
        for kind in sorted(speeds, reverse=one % 2 == 0):
            store = ["--usage-store", f"{folder}/speed{one}.db"] if kind == "with" else []
            with Service(build, DEMO, *PRICE, *store):
                done = load(build, "--concurrency", "32", "--requests", "1500", "--warmup",
                            "64", "--prompt", "60-300", "--output", "20-60")
            speeds[kind].append(done["output_tokens_per_second"])
    ratios = [a / b for a, b in zip(speeds["with"], speeds["without"])]
    print(f"## Throughput of the demo model at 32 callers, {rounds} rounds in turns\n")
    for kind, values in speeds.items():
        print(f"{kind:8} the store: tokens/s " + " ".join(f"{value:.0f}" for value in values)
              + f"; median {statistics.median(values):.0f}")
    print(f"with / without, median of the rounds: {statistics.median(ratios):.4f} (goal 0.98)\n",
          flush=True)


def p99(family):
    """Of a histogram, as Prometheus's histogram_quantile has it: linear within its bucket."""
    found = re.findall(family + r'_bucket\{.*?le="([^"]+)"\} (\S+)', page("metrics"))
    wanted = 0.99 * float(found[-1][1])
    low, below = 0.0, 0.0
    for bound, count in ((float(bound), float(count)) for bound, count in found):
        if count >= wanted:
            return low + (bound - low) * (wanted - below) / (count - below)
        low, below = bound, count


def delay(build, folder, rate):
    ends = {}
    for kind in ("without", "with"):
        store = ["--usage-store", f"{folder}/delay.db"] if kind == "with" else []
        with Service(build, "null", *PRICE, *store):
            ends[kind] = load(build, "--rate", str(rate), "--seconds", "20", "--prompt",
                              "300", "--output", "20")["end_to_end_seconds"]
            if store:
                mean_s = metric("tuppence_store_commit_seconds_sum") / metric(
                    "tuppence_store_commit_seconds_count")
                commit_s = p99("tuppence_store_commit_seconds")
                closing_s = p99("tuppence_closing_delay_seconds")
    print(f"## The closing message's delay, null model, open loop of {rate} requests/s\n")
    for kind, latency in ends.items():
        print(f"{kind:8} the store: end to end p50 {1e3 * latency['p50']:.2f} ms, "
              f"p99 {1e3 * latency['p99']:.2f} ms")
    print(f"a closing message's wait for the store: p99 {1e3 * closing_s:.2f} ms; a group commit: mean "
          f"{1e3 * mean_s:.2f} ms, p99 {1e3 * commit_s:.2f} ms (goal: the wait is at most one commit: "
          f"{'held' if closing_s <= commit_s else 'not held'})\n", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        conservation(options.build, folder, options.requests)
        throughput(options.build, folder, options.rounds)
        delay(options.build, folder, options.rate)


main()
