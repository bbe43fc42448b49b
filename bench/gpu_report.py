#!/usr/bin/python3
"""Makes the tables of a GPU check out of what gpu_bench and gpu_peers.py printed: each kernel's share of the measured copy bandwidth
and of the measured cuBLAS rate, tokens per second of whole steps with their share of the roofline, peers beside them, and
projections for cheap cards.

    gpu_bench > kernels.jsonl; gpu_report.py kernels.jsonl [peers.jsonl]
    gpu_report.py --ptx75 kernels-75.jsonl kernels.jsonl     the T4's projection from a build of the sm_75 path
"""

import argparse
import json
import pathlib
import sys

# Published bandwidth (bytes/s) and dense f16 rate (FLOP/s); USD an hour of the smallest machine that has one, on demand at list price:
# g4dn.xlarge, g6.xlarge and g5.xlarge of AWS, us-east-1.
CARDS = {"T4": (320e9, 65e12, 0.526), "L4": (300e9, 121e12, 0.805), "A10G": (600e9, 70e12, 1.006)}
# The lowest share of the roofline that a whole engine with 4-bit weights has published (20 to 60 %).
LOWEST_SHARE = 0.20
LOADS = (1.0, 0.3)


def read(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines() if line.startswith("{")]


class Yardsticks:
    """What this device was measured to do: copying, and cuBLAS where it was there."""

    def __init__(self, rows):
        copies = [row["bytes"] / row["seconds"] for row in rows if row.get("kernel") == "device copy"]
        rates = [row["flop"] / row["seconds"] for row in rows if row.get("kernel", "").startswith("cublas")]
        if not copies:
            sys.exit("gpu_report.py: no row 'device copy' to measure against; is this gpu_bench's output?")
        self.copy = max(copies)
        self.matmul = max(rates, default=0)

    def least_seconds(self, row):
        """What the bytes and the arithmetic of a row take at these rates."""
        arithmetic = row["flop"] / self.matmul if self.matmul > 0 else 0
        return max(row["bytes"] / self.copy, arithmetic)


def percent(share):
    return f"{100 * share:.0f} %"


def kernel_table(rows, yard):
    print("| kernel | shape | microseconds | GB/s | of copying | TFLOP/s | of cuBLAS |\n|---|---|---:|---:|---:|---:|---:|")
    for row in rows:
        if "kernel" not in row:
            continue
        bytes_rate, flop_rate = row["bytes"] / row["seconds"], row["flop"] / row["seconds"]
        of_matmul = percent(flop_rate / yard.matmul) if yard.matmul > 0 and row["flop"] > 0 else "-"
        print(f"| {row['kernel']} | {row['shape']} | {row['seconds'] * 1e6:.1f} | {bytes_rate / 1e9:.0f} | "
              f"{percent(bytes_rate / yard.copy)} | {flop_rate / 1e12:.1f} | {of_matmul} |")


def step_table(rows, yard):
    print("\n| step | weights | KV | batch | context | ms | tokens/s | of the roofline |\n|---|---|---|---:|---:|---:|---:|---:|")
    for row in rows:
        if "step" not in row:
            continue
        start = f"| {row['step']} | {row['weights']} | {row['kv']} | {row['batch']} | {row['context']} | "
        if "left_out" in row:
            print(f"{start}- | - | left out: {row['left_out']} |")
            continue
        rate = int(row["tokens"]) / row["seconds"]
        print(f"{start}{row['seconds'] * 1e3:.2f} | {rate:.0f} | {percent(yard.least_seconds(row) / row['seconds'])} |")


def peer_table(rows):
    print("\n| peer | shape | microseconds | tokens/s |\n|---|---|---:|---:|")
    for row in rows:
        if "left_out" in row:
            print(f"| {row['peer']} | left out: {row['left_out']} | - | - |")
        else:
            tokens = f"{row['tokens'] / row['seconds']:.0f}" if "tokens" in row else "-"
            print(f"| {row['peer']} | {row['shape']} | {row['seconds'] * 1e6:.1f} | {tokens} |")


def decode_steps(rows):
    return [row for row in rows if row.get("step") == "decode" and "left_out" not in row and row["weights"] == "int4" and row["kv"] == "int8"]


def project(rows, ptx75_rows):
    """A share measured here, put on a card's published numbers: the upper end. The lower end is the lowest published share."""
    print("\nProjections, not measurements: the share of the roofline measured on this device, applied to each card's published "
          f"bandwidth and rate; the lower end is {percent(LOWEST_SHARE)}, the lowest share that an engine with 4-bit weights has published. "
          "int4 weights, int8 KV.\n")
    print("| card | batch | tokens/s | USD per million output tokens, 100 % load | 30 % load |\n|---|---:|---:|---:|---:|")
    for card, (bandwidth, rate, usd_per_hour) in CARDS.items():
        if card == "T4" and not ptx75_rows:
            print("| T4 | - | not projected: the sm_75 path was not measured | - | - |")
            continue
        source = ptx75_rows if card == "T4" else rows
        yard = Yardsticks(source)
        for row in decode_steps(source):
            share = yard.least_seconds(row) / row["seconds"]
            least = max(row["bytes"] / bandwidth, row["flop"] / rate)
            tokens = [int(row["tokens"]) / least * one for one in sorted((LOWEST_SHARE, share))]
            costs = [" to ".join(f"{usd_per_hour / (one * 3600 * load) * 1e6:.3f}" for one in reversed(tokens)) for load in LOADS]
            print(f"| {card} | {row['batch']} | {tokens[0]:.0f} to {tokens[1]:.0f} | {costs[0]} | {costs[1]} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ptx75")
    parser.add_argument("kernels")
    parser.add_argument("peers", nargs="?")
    arguments = parser.parse_args()
    rows = read(arguments.kernels)
    yard = Yardsticks(rows)
    for row in rows:
        if "arithmetic" in row:
            print(f"Arithmetic {row['arithmetic']}. Copying: {yard.copy / 1e9:.0f} GB/s, read and written. "
                  f"cuBLAS: {f'{yard.matmul / 1e12:.0f} TFLOP/s' if yard.matmul > 0 else 'not there'}.\n")
    kernel_table(rows, yard)
    step_table(rows, yard)
    if arguments.peers:
        peer_table(read(arguments.peers))
    project(rows, read(arguments.ptx75) if arguments.ptx75 else [])


if __name__ == "__main__":
    main()
