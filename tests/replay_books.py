#!/usr/bin/env python3
"""Replays usage stores on its own: adds everything up again from the tables alone, with nothing of
the service's code, and prints what the invoice's total must be.  replay_books.py STORE..."""
import json
import sqlite3
import sys
from fractions import Fraction

# `near`: the price booked on its machine before it, or else after: of a run without a period.
RUNS = """SELECT *, (SELECT micro_usd_per_hour FROM (SELECT micro_usd_per_hour, utc_start_ns -
            runs.started_utc_ns AS after_ns FROM periods JOIN runs AS other USING (run_id) WHERE
            other.instance = runs.instance) ORDER BY after_ns > 0, abs(after_ns) LIMIT 1) AS near
            FROM runs"""
PERIODS = """SELECT *, startup_ns + idle_ns + request_ns + overhead_ns + drain_ns + unrecorded_ns
            AS booked_ns, (SELECT coalesce(sum(request_ns), 0) FROM period_charges AS c WHERE
            (c.run_id, c.number) = (p.run_id, p.number)) AS tenants_ns
            FROM periods AS p WHERE run_id = ? ORDER BY number"""
TENANTS = """SELECT *, sum(request_ns - lost_ns - open_ns * (number = ?2)) AS charged_ns,
            (SELECT coalesce(sum(machine_ns - unrecorded_ns), 0) FROM requests AS r WHERE ended_ns
            <= ?3 AND r.run_id = ?1 AND r.tenant = c.tenant AND r.model = c.model) AS rows_ns
            FROM period_charges AS c WHERE run_id = ?1 GROUP BY tenant, model"""
books = {"held_ns": 0, "cost_nanousd": Fraction(0), "requests": 0}


def must_agree(name, left, right, row):
    if left != right:
        sys.exit(f"{name}: {left} and {right} do not agree: {dict(row)}")


def book(run, price, ns):
    books["held_ns"] += ns
    books["cost_nanousd"] += Fraction((price or 0) * run["machine_share_ppm"] * ns, 3600 * 10**12)


for path in sys.argv[1:]:
    store = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    store.row_factory = sqlite3.Row
    books["requests"] += store.execute("SELECT count(*) FROM requests").fetchone()[0]
    for run in store.execute(RUNS):
        at_ns, number, card = run["started_ns"], -1, run["near"]
        for period in store.execute(PERIODS, (run["run_id"],)):
            must_agree("no gap before", at_ns, period["start_ns"], period)
            at_ns, number, card = period["end_ns"], period["number"], period["micro_usd_per_hour"]
            must_agree("accounts", period["booked_ns"], at_ns - period["start_ns"], period)
            must_agree("tenants", period["tenants_ns"], period["request_ns"], period)
            book(run, card, period["booked_ns"])
        for tenant in store.execute(TENANTS, (run["run_id"], number, at_ns)):
            must_agree("rows", tenant["charged_ns"], tenant["rows_ns"], tenant)
        book(run, card, (run["ended_ns"] or at_ns) - at_ns)  # what a killed one had not booked
print(json.dumps({**books, "cost_nanousd": int(books["cost_nanousd"] + Fraction(1, 2))}))
