#!/usr/bin/env python3
"""Holds the planner against the machine it runs on, and prints a report for bench/results/.

    python3 bench/plan_check.py build/cpu [--model synthetic:phi-3-mini-4k] [--weights int4] [--predictions FILE]

A service is loaded with one traffic; `tuppence plan --status` takes the step costs that it has fitted meanwhile and
says what three others would be like, of other lengths, another number of callers and another rate. The predictions are
printed, with the time, before the first of the three is measured with serve_bench; --predictions stores them as well.
Ends with 1 if one of them is off by more than 15 % in throughput or in a median.
"""
import argparse
import datetime
import json
import pathlib
import subprocess
import sys
import tempfile

from measured_service import Service, load, page

ERROR_MAX = 0.15
CALIBRATION = ("calibration", ["--callers", "4"], "48-160", "16-48")
# A name, who calls, prompt and answer in tokens.
TRAFFICS = [
    ("other lengths", ["--callers", "4"], "200-400", "4-16"),
    ("more callers", ["--callers", "10"], "48-160", "16-48"),
    ("by the clock", ["--rate", "{rate}"], "32-200", "8-64"),
]
# What is compared: a name, and where it is in a row of the plan and in serve_bench's result.
MEASURES = [
    ("output tokens/s", ["output_tokens_per_second"], ["output_tokens_per_second"]),
    ("time to first token p50, s", ["time_to_first_token_seconds", "p50"], ["time_to_first_token_seconds", "p50"]),
    ("inter-token p50, s", ["inter_token_seconds", "p50"], ["inter_token_seconds", "p50"]),
    ("end to end p50, s", ["end_to_end_seconds", "p50"], ["end_to_end_seconds", "p50"]),
]


def amount(arguments, rate, seed):
    """The flags that both programs take, for a traffic of about so many seconds."""
    name, who, prompt, output = arguments
    who = [word.format(rate=f"{rate:.3f}") for word in who]
    return who, ["--prompt", prompt, "--output", output, "--seed", str(seed)]


def predict(build, status, traffic, rate, requests, seconds, seed):
    who, lengths = amount(traffic, rate, seed)
    how_many = ["--seconds", str(seconds)] if who[0] == "--rate" else ["--requests", str(requests)]
    plan = subprocess.run(
        [f"{build}/service/tuppence", "plan", "--status", status, *who, *how_many, *lengths, "--replicas", "1",
         "--format", "json"], check=True, capture_output=True, text=True)
    return json.loads(plan.stdout)["machines"][0]["rows"][0]


def measure(build, traffic, rate, requests, seconds, seed):
    who, lengths = amount(traffic, rate, seed)
    if who[0] == "--callers":
        who, how_many = ["--concurrency", who[1]], ["--requests", str(requests)]
    else:
        how_many = ["--seconds", str(seconds)]
    return load(build, *who, *how_many, *lengths)


def at(values, path):
    for key in path:
        values = values[key]
    return values


def label_of(traffic, rate):
    who, _ = amount(traffic, rate, 0)
    return f"{traffic[0]}: {' '.join(who)[2:]}, {traffic[2]} in, {traffic[3]} out"


def print_predictions(predicted, rate):
    """Before anything of it is measured: a reader of the report sees that none was made to fit."""
    now = datetime.datetime.now(datetime.timezone.utc)
    print(f"Predicted by {now:%Y-%m-%d %H:%M:%S} UTC, before the first of them was measured:\n")
    print("| Traffic | " + " | ".join(name for name, _, _ in MEASURES) + " |\n|---|" + "---:|" * len(MEASURES))
    for traffic, row in zip(TRAFFICS, predicted):
        values = " | ".join(f"{at(row, path):.4g}" for _, path, _ in MEASURES)
        print(f"| {label_of(traffic, rate)} | {values} |")
    print(flush=True)


def check(arguments, folder):
    build, requests, seconds = arguments.build, arguments.requests, arguments.seconds
    print("calibrating ...", file=sys.stderr)
    calibrated = measure(build, CALIBRATION, 0, requests, seconds, 1)
    status = folder / "status.json"
    status.write_text(page("status"))
    # Busy for some three quarters of the time, by what calibration served.
    rate = arguments.rate or 0.6 * calibrated["requests_per_second"]
    predicted = [predict(build, status, traffic, rate, requests, seconds, 2 + i) for i, traffic in enumerate(TRAFFICS)]
    if arguments.predictions:
        arguments.predictions.write_text(json.dumps(predicted, indent=1) + "\n")
    cost = json.loads(status.read_text())["step_cost"]
    print("Fitted while it served the calibration: "
          + ", ".join(f"{name[:-3].replace('_', ' ')} {value / 1000:.4g} us" for name, value in cost.items()) + ".\n")
    print_predictions(predicted, rate)
    print(f"Measured from {datetime.datetime.now(datetime.timezone.utc):%H:%M:%S} UTC on:\n")
    print("| Traffic | | Predicted | Measured | Error |\n|---|---|---:|---:|---:|")
    worst = 0
    for i, traffic in enumerate(TRAFFICS):
        print(f"measuring {traffic[0]} ...", file=sys.stderr)
        measured = measure(build, traffic, rate, requests, seconds, 2 + i)
        label = label_of(traffic, rate)
        for name, plan_path, bench_path in MEASURES:
            says, is_so = at(predicted[i], plan_path), at(measured, bench_path)
            error = says / is_so - 1
            worst = max(worst, abs(error))
            print(f"| {label} | {name} | {says:.4g} | {is_so:.4g} | {100 * error:+.1f} % |")
            label = ""
    print(f"\nLargest error {100 * worst:.1f} %; allowed are {100 * ERROR_MAX:.0f} %.")
    return 0 if worst <= ERROR_MAX else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("--model", default="synthetic:phi-3-mini-4k")
    parser.add_argument("--weights", default="int4")
    parser.add_argument("--requests", type=int, default=40, help="of each closed loop")
    parser.add_argument("--seconds", type=int, default=60, help="of the open loop")
    parser.add_argument("--rate", type=float, help="of the open loop; without it 0.6 of what calibration served")
    parser.add_argument("--predictions", type=pathlib.Path, help="store them in this file too, before measuring")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with Service(arguments.build, arguments.model, "--weights", arguments.weights, "--kv-memory", "1G"):
            return check(arguments, pathlib.Path(folder))


if __name__ == "__main__":
    sys.exit(main())
