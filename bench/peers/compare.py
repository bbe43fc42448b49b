#!/usr/bin/env python3
"""Measures Tuppence and its peers on this machine, in turns within one run, on one checkpoint.

    python3 bench/peers/compare.py --checkpoint FOLDER --bits 4 --out bench/results/NAME \\
        --llama-server PROGRAM --llama-q4 FILE --openvino-python PYTHON --openvino-int4 FOLDER ...

An engine that is not named, or does not start, stands in the table with the reason. One engine is up at a time: a round
starts each in turn, takes every measure and ends it; the order turns round with each round. README.md says how the
checkpoint and the peers' files are made.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import time

import measures
import report
from engine import CannotError, Engine
from llama_cpp_engine import LlamaCpp
from tuppence_engine import ROOT, Tuppence
from worker_engines import OnnxRuntimeGenAi, OpenVinoGenAi

ENGINES = [Tuppence, OpenVinoGenAi, LlamaCpp, OnnxRuntimeGenAi]
TOKENS_PER_CALLER = 512 + 128


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--bits", type=int, choices=[4, 8], required=True, help="of a weight")
    parser.add_argument("--out", required=True, help="path without ending: .md and .json are written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--callers", type=int, nargs="*", default=[1, 4, 16, 32], help="requests at the same time")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--machine", default="aws-m7a.large", help="whose price, of deploy/machine_prices.json")
    parser.add_argument("--reference-price", default="gpt-4o-mini", help="of deploy/reference_prices.json")
    parser.add_argument("--tuppence", default=ROOT / "build/cpu/service/tuppence")
    parser.add_argument("--op-bench", default=ROOT / "build/cpu/bench/op_bench")
    parser.add_argument("--llama-server", help="llama.cpp's server")
    parser.add_argument("--llama-q8", help="the checkpoint as Q8_0")
    parser.add_argument("--llama-q4", help="the checkpoint as Q4_0")
    parser.add_argument("--openvino-python", help="a Python with openvino-genai")
    parser.add_argument("--openvino-int8", help="folder of the exported model")
    parser.add_argument("--openvino-int4", help="folder of the exported model")
    parser.add_argument("--onnxruntime-python", help="a Python with onnxruntime-genai")
    parser.add_argument("--onnxruntime-int8", help="folder of the built model")
    parser.add_argument("--onnxruntime-int4", help="folder of the built model")
    arguments = parser.parse_args()
    arguments.callers_max = max([16, *arguments.callers])  # late_arrival has 16
    return arguments


def make_engines(arguments) -> tuple[list[Engine], dict[str, str]]:
    """Those that can be asked, and of the others why not."""
    engines, missing = [], {}
    for kind in ENGINES:
        try:
            engines.append(kind(arguments, arguments.bits, TOKENS_PER_CALLER * arguments.callers_max))
        except LookupError as error:
            missing[kind.name] = str(error)
    return engines, missing


def measure(engine: Engine, names: dict, seed: int) -> dict:
    """One engine's figures of one round; those before a measure that fails stay, and "failed" says why."""
    begin = time.monotonic()
    engine.start()
    figures = {"load": {"seconds": time.monotonic() - begin}}
    try:
        measures.decode_alone(engine, seed + 1000)  # nothing counted: first touch of everything
        for name, take in names.items():
            try:
                figures[name] = take(engine, seed)
            except CannotError as error:
                print(f"  {name}: cannot, {error}", flush=True)
                continue
            except (RuntimeError, OSError, ValueError) as error:
                figures["failed"] = {"why": f"{name}: {error}"}
                break
            print(f"  {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures[name].items()), flush=True)
        figures["memory"] = {"peak_bytes": engine.peak_bytes()}
    finally:
        engine.stop()
    return figures


def machine_limits(op_bench) -> dict:
    """What the machine can do, measured: bytes read a second, and 8-bit integer operations."""
    told = subprocess.run([op_bench, "--benchmark_filter=read_memory|int8_peak", "--benchmark_format=json"],
                          capture_output=True, text=True, check=True).stdout
    rows = {row["name"].split("/")[0]: row for row in json.loads(told[told.index("{"):])["benchmarks"]}
    return {"read_bytes_per_second": rows["read_memory"]["GB/s"] * 1e9,
            "int8_operations_per_second": rows["int8_peak"]["TOPS"] * 1e12}


def describe_machine() -> dict:
    told = pathlib.Path("/proc/cpuinfo").read_text()
    cpu, family, model, flags = (re.search(rf"^{name}\s*: (.*)", told, re.MULTILINE).group(1)
                                 for name in ("model name", "cpu family", "model", "flags"))
    flags = set(flags.split())
    known = [flag for flag in ("amx_int8", "avx512_bf16", "avx512_vnni", "avx512f", "avx2") if flag in flags]
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {"cpu": cpu, "family_model": f"{family}/{model}", "instructions": known,
            "cores": len(os.sched_getaffinity(0)), "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "kernel": platform.release(), "commit": commit.stdout.strip()}


def main():
    arguments = parse_arguments()
    engines, missing = make_engines(arguments)
    names = measures.all_measures(arguments.callers)
    rounds = {engine.name: [] for engine in engines}
    for number in range(arguments.rounds):
        for engine in engines if number % 2 == 0 else reversed(engines):
            if engine.name in missing:
                continue
            print(f"round {number + 1}, {engine.name}", flush=True)
            try:
                rounds[engine.name].append(measure(engine, names, seed=number))
                if failed := rounds[engine.name][-1].get("failed"):
                    missing[engine.name] = failed["why"]
            except (RuntimeError, OSError, ValueError) as error:
                missing[engine.name] = str(error)
    result = {"date": datetime.date.today().isoformat(), "command": " ".join(sys.argv), "bits": arguments.bits,
              "threads": arguments.threads, "machine": describe_machine(), "limits": machine_limits(arguments.op_bench),
              "engines": {engine.name: {"version": engine.version, "weights": engine.weights, "settings": engine.settings}
                          for engine in engines},
              "missing": missing, "rounds": {name: made for name, made in rounds.items() if made}}
    out = pathlib.Path(arguments.out)
    out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    prices = report.Prices(ROOT, arguments.machine, arguments.reference_price)
    table = report.table(result, arguments.callers, prices)
    out.with_suffix(".md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
