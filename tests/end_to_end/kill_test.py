"""A service under load is killed (kill -9) again and again, at random moments, and started on the
same usage store. Afterwards no acknowledged answer is lost from the books, none is there twice, and
every sum still agrees: checked by the program and by a replay of its own. Nor is time: periods are
short, so that kills meet them being written, and what the books say of each process is held against
when it was started and when it was gone.

    python3 tests/end_to_end/kill_test.py build/cpu [KILLS=20] [SEED]
"""
import contextlib
import json
import random
import subprocess
import sys
import threading
import time

import grpc

from observed_service import Service, Stub, kills_asked_for, make_api, root, rows_of, temporary_folder

CALLERS = 6
LIFE_SECONDS_MAX = 0.6
PERIOD_SECONDS = 0.05
# What a life may miss in the books on average: its program's start, until it looks at the clock,
# and the time since its last sign of life, one of which comes each 0.1 s.
MISSED_NS_MAX = 300_000_000


class Acknowledged:
    """Callers that keep asking, and what they were told: request id to machine time and cost."""

    def __init__(self, api, service):
        self.answers = {}
        self.lock = threading.Lock()
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self._ask, args=(api, service, number), daemon=True)
                        for number in range(CALLERS)]
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.ending.set()
        for thread in self.threads:
            thread.join()

    def _ask(self, api, service, number):
        stub = Stub(api, service)
        draw = random.Random(number)
        while not self.ending.is_set():
            request_id = None
            try:
                for message in stub.start(tenant=f"tenant-{number % 3}", words=draw.randint(1, 30),
                                          max_tokens=draw.randint(1, 12)):
                    if message.HasField("start"):
                        request_id = message.start.request_id
                    if message.HasField("cost"):
                        with self.lock:
                            assert request_id not in self.answers, request_id
                            self.answers[request_id] = (message.cost.machine_ns,
                                                        message.cost.cost_nanousd)
            except grpc.RpcError:  # killed; the old channel would wait before it connects again
                time.sleep(0.02)
                stub.channel.close()
                stub = Stub(api, service)


def live_and_die(service, seconds):
    service.wait_ready()
    time.sleep(seconds)
    service.kill()
    service.start()


def check_books(binary, store, answers, kills):
    rows = rows_of(store, "SELECT request_id, machine_ns, cost_nanousd FROM requests")
    booked = {row[0]: row[1:] for row in rows}
    assert len(booked) == len(rows), "a request is in the books twice"
    lost = [one for one in answers if one not in booked]
    assert not lost, f"{len(lost)} acknowledged answers are not in the books: {lost[:5]}"
    wrong = [one for one, told in answers.items() if booked[one] != told]
    assert not wrong, f"{len(wrong)} rows are not what the callers were told: {wrong[:5]}"
    verify = subprocess.run([binary, "ledger", "verify", store], capture_output=True, text=True)
    assert verify.returncode == 0, verify.stderr
    assert f"{kills + 1} runs" in verify.stdout.replace(",", ""), verify.stdout
    replayed = json.loads(subprocess.run(["python3", f"{root}/tests/replay_books.py", store],
                                         capture_output=True, text=True, check=True).stdout)
    invoice = json.loads(subprocess.run([binary, "invoice", store, "--format", "json"],
                                        capture_output=True, text=True, check=True).stdout)
    for name in ("held_ns", "cost_nanousd", "requests"):
        assert replayed[name] == invoice["total"][name], (name, replayed, invoice["total"])
    return len(rows), verify.stdout.strip(), invoice["total"]


def check_times(store, lives, total):
    """Every process is in the books as long as it was there, and once; what no period has of it is
    unaccounted; what is left of the time from first to last was down. Returns what was missed."""
    runs = rows_of(store, "SELECT started_ns, ended_ns FROM runs ORDER BY started_ns")
    for (asked_ns, gone_ns), (started_ns, ended_ns) in zip(lives, runs, strict=True):
        assert asked_ns <= started_ns <= ended_ns <= gone_ns, (asked_ns, started_ns, ended_ns, gone_ns)
    missed_ns = sum(gone - asked for asked, gone in lives) - total["held_ns"]
    assert 0 <= missed_ns <= len(lives) * MISSED_NS_MAX, f"{missed_ns} ns of {len(lives)} lives"
    assert total["held_ns"] + total["down_ns"] == runs[-1][1] - runs[0][0], total
    (periods, booked_ns), = rows_of(store, "SELECT count(*), sum(end_ns - start_ns) FROM periods")
    assert periods > 2 * len(lives), f"{periods} periods: kills met none of them"
    assert total["accounts"]["unaccounted"]["machine_ns"] == total["held_ns"] - booked_ns, total
    return missed_ns


def main():
    binary = f"{sys.argv[1]}/service/tuppence"
    kills, draw = kills_asked_for(20)
    began = time.monotonic()
    with temporary_folder() as folder, contextlib.ExitStack() as stack:
        store = f"{folder}/usage.db"
        service = Service(binary, folder, "killed", str(root / "deploy/demo_model/checkpoint"),
                          "--price-per-hour", "0.526", "--tenant-header", "x-tenant",
                          "--kv-memory", "32M", "--threads", "1", "--usage-store", store,
                          "--period-seconds", str(PERIOD_SECONDS))
        stack.callback(lambda: service.process.kill())
        callers = Acknowledged(make_api(folder), service)
        for _ in range(kills):
            live_and_die(service, draw.uniform(0, LIFE_SECONDS_MAX))
        service.wait_ready()
        time.sleep(0.5)
        callers.stop()
        service.stop()
        rows, verified, total = check_books(binary, store, callers.answers, kills)
        missed_ns = check_times(store, service.lives, total)
    assert len(callers.answers) >= kills, f"only {len(callers.answers)} answers: no load"
    print(f"{kills} kills in {time.monotonic() - began:.0f} s: {len(callers.answers)} answers "
          f"acknowledged, 0 lost, 0 doubled, {rows} rows; {missed_ns / 1e6 / (kills + 1):.1f} ms of a "
          f"life are not in the books\n{verified}")


if __name__ == "__main__":
    main()
