#!/usr/bin/env python3
"""Makes trace.csv: half an hour of a shop's support desk, for `tuppence plan --trace`. The traffic is made up; a service
that runs with --write-trace writes its own.

    python3 deploy/examples/make_trace.py > deploy/examples/trace.csv
"""
import math
import random

MINUTES = 30
# Of each tenant: requests a minute, class, median tokens in and out. Questions come in waves, summaries steadily.
TENANTS = [("shop", 70, "interactive", 310, 55), ("app", 25, "standard", 180, 90), ("reports", 6, "batch", 900, 160)]


def length(draw, median):
    return max(4, min(2000, round(draw.lognormvariate(math.log(median), 0.5))))


def main():
    draw = random.Random(20261125)
    lines = []
    for tenant, per_minute, priority_class, prompt, completion in TENANTS:
        at = 0.0
        while True:
            wave = 1 + (0.6 * math.sin(at / 240) if priority_class != "batch" else 0)
            at += draw.expovariate(per_minute / 60 * wave)
            if at >= 60 * MINUTES:
                break
            lines.append((at, length(draw, prompt), length(draw, completion), tenant, priority_class))
    print("arrival,prompt_tokens,completion_tokens,tenant,priority_class")
    for at, prompt, completion, tenant, priority_class in sorted(lines):
        print(f"{at:.3f},{prompt},{completion},{tenant},{priority_class}")


if __name__ == "__main__":
    main()
