#!/usr/bin/env python3
"""The HTTP door beside the gRPC door: prints a report for bench/results/.

    python3 bench/doors_bench.py build/cpu [--rounds 5]

1. The same load through each, in turns: throughput and time to first token.
2. 4,000 streams of server-sent events at a time on the null model: memory for each, and how evenly tokens come.
"""
import argparse
import statistics

from measured_service import DEMO, MIB, MemoryWatch, Service, load, metric

DOORS = ("grpc", "http")


def side_by_side(build, rounds):
    print(f"## The same load through both doors, {rounds} rounds in turns\n\nDemo model; prompts of 200 to 400 tokens, "
          "answers of 40 to 80, streamed.\n")
    print("| callers | | gRPC | HTTP | HTTP / gRPC, median of the rounds (goal 0.95 to 1.05) |\n|---:|---|---:|---:|---:|")
    for callers in (1, 8, 32):
        seen = {door: [] for door in DOORS}
        # Without what a door has read already being there for the other.
        with Service(build, DEMO, "--prefix-cache", "off", http=True):
            for one in range(rounds):
                for door in sorted(DOORS, reverse=one % 2 == 0):
                    seen[door].append(load(build, "--concurrency", str(callers), "--requests", str(100 + 12 * callers),
                                           "--warmup", str(2 * callers), "--prompt", "200-400", "--output", "40-80",
                                           "--seed", str(one + 1), door=door))
        measures = {"output tokens/s": lambda run: run["output_tokens_per_second"],
                    "time to first token p50, ms": lambda run: 1e3 * run["time_to_first_token_seconds"]["p50"],
                    "inter-token p50, ms": lambda run: 1e3 * run["inter_token_seconds"]["p50"]}
        for name, of in measures.items():
            grpc, http = ([of(run) for run in seen[door]] for door in DOORS)
            ratio = statistics.median(b / a for a, b in zip(grpc, http))
            print(f"| {callers} | {name} | {statistics.median(grpc):.4g} | {statistics.median(http):.4g} | {ratio:.3f} |",
                  flush=True)
    print(flush=True)


def streams(build, count, callers_tokens):
    flags = ["--concurrency", str(count), "--requests", str(count), "--warmup", "0", "--prompt", "16", "--output",
             str(callers_tokens), "--channels", "64"]
    print(f"## {count:,} streams at a time, null model, {callers_tokens} tokens each\n")
    print("| door | failed | memory before, MiB | at most, MiB | for each stream, KiB | inter-token p50, ms | p99, ms | "
          "tokens/s |\n|---|---:|---:|---:|---:|---:|---:|---:|")
    for door in DOORS:
        with Service(build, "null", "--sequences-max", str(count), "--queue-requests-max", str(count),
                     "--queue-tokens-max", str(100 * count), "--tenant-requests-max", str(count),
                     "--tenant-tokens-max", str(100 * count), http=True) as service:
            before = service.memory_bytes()
            with MemoryWatch(service) as memory:
                done = load(build, *flags, door=door, refusals=True)
            most = max(memory.samples)
            gap = done["inter_token_seconds"]
            failed = sum(done.get("errors", {}).values())
            print(f"| {door} | {failed} | {before / MIB:.1f} | {most / MIB:.1f} | {(most - before) / count / 1024:.1f} | "
                  f"{1e3 * gap['p50']:.1f} | {1e3 * gap['p99']:.1f} | {done['output_tokens_per_second']:.0f} |", flush=True)
    print(flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=4000)
    parser.add_argument("--stream-tokens", type=int, default=200)
    options = parser.parse_args()
    side_by_side(options.build, options.rounds)
    streams(options.build, options.streams, options.stream_tokens)


main()
