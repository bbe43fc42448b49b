#!/usr/bin/env python3
"""bench/peers: what each measure makes of the moments at which tokens come, and what the table makes of the figures. The
engines here keep an exact timetable, so every figure is known."""
import pathlib
import sys

root = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(root / "bench/peers"))
sys.dont_write_bytecode = True
import compare
import measures
import report
from engine import Answer, CannotError, Engine, Request


class Timetable(Engine):
    """A prompt token takes `prompt` seconds, and then a token `step`; prompts one after the other."""
    version, weights, settings = "1", "none", "none"

    def __init__(self, name, prompt, step, extra=0, late=True, extra_from=1000):
        self.name, self.prompt, self.step, self.extra, self.late = name, prompt, step, extra, late
        self.extra_from = extra_from  # answers that long come with one token more
        self.asked, self.started = [], False

    def start(self):
        self.started = True

    def stop(self):
        self.started = False

    def pid(self):
        return 1

    def peak_bytes(self):
        return 3_000_000_000

    def run(self, requests):
        assert self.started
        if not self.late and any(request.at > 0 for request in requests):
            raise CannotError("no late ones")
        self.asked.append(requests)
        answers, free = [], 100.0
        for request in requests:
            free = max(free, 100.0 + request.at) + len(request.prompt) * self.prompt
            answers.append(Answer(100.0 + request.at,
                                  [free + i * self.step for i in range(request.output + self.extra + (request.output >= self.extra_from))]))
        return answers


def near(found, expected):
    assert abs(found - expected) < 1e-9 * max(1.0, abs(expected)), (found, expected)


def started(*arguments, **named):
    engine = Timetable(*arguments, **named)
    engine.start()
    return engine


def check_measures():
    engine = started("e", 0.01, 0.1)
    near(measures.decode_alone(engine, 0)["tokens_per_second"], 10)
    figures = measures.prefill(engine, 512, 0)
    near(figures["tokens_per_second"], 100)
    near(figures["ttft_seconds"], 5.12)

    figures = measures.served(engine, 4, 0)  # prompts are done after 5.12, 10.24, 15.36 and 20.48 seconds
    near(figures["tokens_per_second"], 4 * 128 / (20.48 + 12.7))
    near(figures["ttft_p50"], 15.36)
    near(figures["ttft_p99"], 20.48)
    near(figures["itl_p50"], 0.1)

    # First tokens from 0.64 to 10.24 seconds, the first last one at 0.64 + 25.5: 15.9 seconds of 16 sequences.
    figures = measures.decode_together(engine, 0)
    near(figures["phase_seconds"], 15.9)
    assert abs(figures["tokens_per_second"] - 160) < 1, figures

    figures = measures.late_arrival(engine, 0)
    near(figures["ratio"], 1)
    assert figures["others_decoding"] == 15, figures

    # The first of 16 ends before the last has begun; the late one comes before the others decode.
    slow = started("e", 0.1, 0.1)
    assert measures.decode_together(slow, 0) == {}
    assert measures.late_arrival(slow, 0) == {"others_decoding": 7}


def check_requests():
    """Every engine is asked the same, and no two callers the same."""
    one, other = started("a", 0.01, 0.1), started("b", 0.02, 0.1)
    for engine in (one, other):
        measures.served(engine, 4, seed=7)
    assert one.asked == other.asked
    prompts = [tuple(request.prompt) for request in one.asked[0]]
    assert len(set(prompts)) == 4 and all(len(prompt) == 512 for prompt in prompts)
    assert all(300 <= token < 32000 for prompt in prompts for token in prompt)


def check_refusals():
    try:
        measures.decode_alone(started("e", 0.01, 0.1, extra=1), 0)
    except RuntimeError as error:
        assert "65 tokens where 64" in str(error), error
    else:
        raise AssertionError("an answer of another length went through")
    # What was measured before a failure stays, with the reason of it.
    figures = compare.measure(Timetable("e", 0.01, 0.1, extra_from=256), measures.all_measures([16]), 0)
    near(figures["decode"]["tokens_per_second"], 10)
    assert figures["failed"]["why"].startswith("decode_16: e answered with 257 tokens"), figures
    assert "served_16" not in figures
    # What an engine cannot do is left out, and the others are taken.
    figures = compare.measure(Timetable("e", 0.01, 0.1, late=False), measures.all_measures([16]), 0)
    assert "late_arrival" not in figures and "served_16" in figures and figures["memory"]["peak_bytes"] == 3_000_000_000


def check_table():
    rounds = {name: [compare.measure(Timetable(name, prompt, 0.1), measures.all_measures([16]), seed) for seed in (0, 1)]
              for name, prompt in (("Tuppence", 0.01), ("slow", 0.04), ("good", 0.02))}
    result = {"date": "2026-01-02", "command": "compare.py", "bits": 4, "threads": 2, "rounds": rounds,
              "machine": {"cores": 2, "cpu": "a CPU", "family_model": "1/2", "instructions": ["avx2"], "memory_bytes": 8e9,
                          "kernel": "6", "commit": "abc"},
              "limits": {"read_bytes_per_second": 2.0 * report.weight_bytes(4) * 10,
                         "int8_operations_per_second": 2 * report.LAYER_WEIGHTS * 200},
              "engines": {name: {"version": "1", "weights": "w", "settings": "s"} for name in rounds},
              "missing": {"absent": "not named"}}
    prices = report.Prices(root, "aws-m7a.large", "gpt-4o-mini")
    lines = report.table(result, [16], prices).splitlines()

    def row(begin):
        return [cell.strip() for cell in next(line for line in lines if line.startswith(f"| {begin}")).split("|")[1:-1]]

    assert row("measure")[1:5] == ["Tuppence", "slow", "good", "ratio to the best peer"]
    assert row("prefill of 512")[4] == "2.00"  # against the good one
    assert row("prefill of 512")[5:] == ["200.0", "50%"]
    assert row("decode, one caller")[4:] == ["1.00", "20.00", "50%"]
    assert row("16: TTFT P50")[4] == "2.00"  # half the time is twice as good
    assert row("decode, 16 sequences together")[2] == "-"
    assert "- absent is missing: not named" in lines
    # 16 x 128 tokens in 16 x 5.12 + 12.7 seconds.
    rate = 16 * 128 / (16 * 5.12 + 12.7)
    near(prices.usd_per_million(rate, 0.3), 0.11592 / 3600 / rate / 0.3 * 1e6)
    assert row("16 callers, 100% load")[1] == f"{0.11592 / 3600 / rate * 1e6:.2f}"
    near(prices.reference_usd_per_million(), 0.60 + 4 * 0.15)


for check in (check_measures, check_requests, check_refusals, check_table):
    check()
print("bench/peers: measures, requests, refusals and the table are as the timetable says")
