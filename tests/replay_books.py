#!/usr/bin/env python3
"""Replays usage stores on its own: adds everything up again from the tables alone, with nothing of
the service's code, and prints what the invoice's total must be.  replay_books.py STORE..."""
import json
import sqlite3
import sys
from fractions import Fraction

ACCOUNTS = ("startup_ns", "idle_ns", "request_ns", "overhead_ns", "drain_ns", "unrecorded_ns")
NEAR = """SELECT micro_usd_per_hour FROM periods JOIN runs USING (run_id) WHERE instance = ?
          ORDER BY utc_start_ns > ?, abs(utc_start_ns - ?) LIMIT 1"""


def must(agrees, *what):
    if not agrees:
        sys.exit(f"does not agree: {what}")


def replay(path, total):
    store = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    store.row_factory = sqlite3.Row
    for run in store.execute("SELECT * FROM runs"):
        at_ns, last_open, card, charged, own = run["started_ns"], {}, None, {}, (run["run_id"],)
        for period in store.execute("SELECT * FROM periods WHERE run_id = ? ORDER BY number", own):
            must(period["start_ns"] == at_ns, "a gap before", dict(period))
            at_ns = period["end_ns"]
            held_ns = at_ns - period["start_ns"]
            must(sum(period[name] for name in ACCOUNTS) == held_ns, "accounts", dict(period))
            tenants = store.execute("SELECT * FROM period_charges WHERE run_id = ? AND number = ?",
                                    own + (period["number"],)).fetchall()
            must(sum(t["request_ns"] for t in tenants) == period["request_ns"], dict(period))
            last_open = {(t["tenant"], t["model"]): t["open_ns"] for t in tenants}
            for t in tenants:
                key = (t["tenant"], t["model"])
                charged[key] = charged.get(key, 0) + t["request_ns"] - t["lost_ns"]
            card = period["micro_usd_per_hour"]
            book(total, run, card, held_ns)
        for key, charged_ns in charged.items():
            rows_ns = store.execute(
                "SELECT coalesce(sum(machine_ns - unrecorded_ns), 0) FROM requests WHERE run_id = ?"
                " AND tenant = ? AND model = ? AND ended_ns <= ?", own + key + (at_ns,)).fetchone()
            must(charged_ns == rows_ns[0] + last_open.get(key, 0), key, charged_ns, rows_ns[0])
        if run["ended_ns"] is not None:  # what a killed process had not booked
            if at_ns == run["started_ns"]:  # nothing at all: the price booked before it, or after
                near = store.execute(NEAR, (run["instance"],) + 2 * (run["started_utc_ns"],))
                card = (near.fetchone() or [None])[0]
            book(total, run, card, run["ended_ns"] - at_ns)
        total["requests"] += store.execute("SELECT count(*) FROM requests WHERE run_id = ?",
                                           own).fetchone()[0]


def book(total, run, micro_usd_per_hour, ns):
    total["held_ns"] += ns
    price = Fraction((micro_usd_per_hour or 0) * run["machine_share_ppm"], 10**6)
    total["cost_nanousd"] += price * ns * 1000 / (3600 * 10**9)


books = {"held_ns": 0, "cost_nanousd": Fraction(0), "requests": 0}
for store_path in sys.argv[1:]:
    replay(store_path, books)
books["cost_nanousd"] = int(books["cost_nanousd"] + Fraction(1, 2))
print(json.dumps(books))
