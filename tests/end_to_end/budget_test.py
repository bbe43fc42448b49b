"""Budgets across kills: a service with budgets is killed (kill -9) again and again under load, and
what is spent stays spent, once. A budget that is used up is still used up after a kill; a request
that a kill cut off counts at what its time may have cost; whoever has no budget never notices.

    python3 tests/end_to_end/budget_test.py build/cpu [KILLS=6] [SEED]
"""
import contextlib
import json
import subprocess
import sys
import time

import grpc

from kill_test import Acknowledged, live_and_die
from observed_service import (Service, Stub, kills_asked_for, make_api, root, rows_of, temporary_folder,
                              wait_for)

DAY_NS = 86_400 * 10**9


def use_up(api, service, tenant):
    """Asks until the budget does not suffice. What was told on the answers, in nano-USD."""
    stub = Stub(api, service)
    told = 0
    while True:
        try:
            for message in stub.start(tenant=tenant, words=5, max_tokens=40):
                if message.HasField("cost"):
                    told += message.cost.cost_nanousd
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
            return told


def expect_used_up(api, service, tenant):
    """Asks for more than what is left can hold, however the step-cost model was fitted."""
    try:
        Stub(api, service).ask(tenant=tenant, words=5, max_tokens=150)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
        trailers = dict(error.trailing_metadata())
    for part in (b"BUDGET_SPENT", b"QuotaFailure", f"tenant:{tenant}".encode(), b"RetryInfo"):
        assert part in trailers["grpc-status-details-bin"], part
    until_midnight_ms = (DAY_NS - time.time_ns() % DAY_NS) / 1e6
    assert abs(int(trailers["grpc-retry-pushback-ms"]) - until_midnight_ms) < 60_000, trailers


def cut_off_by_a_kill(api, service, store):
    """A long request is killed once the store has its hold and a few signs of life came after it.
    Its hold, and what was posted for it."""
    stub = Stub(api, service)
    answer = iter(stub.start(tenant="long", words=5, max_tokens=1900))
    next(answer)
    held = wait_for("the hold is in the store",
                    lambda: rows_of(store, "SELECT request_id, held_nanousd FROM budget_holds "
                                           "WHERE tenant = 'long'"), 10)
    read_until = time.monotonic() + 0.3
    while time.monotonic() < read_until:
        next(answer)
    service.kill()
    stub.channel.close()
    service.start()
    service.wait_ready()
    (cut_off,), = rows_of(store, "SELECT cut_off_nanousd FROM budget_holds WHERE request_id = "
                                 f"'{held[0][0]}'")
    return held[0][1], cut_off


def check_spend(binary, store, answers):
    """Every tenant's days are its rows and what was cut off, each request once."""
    twice = rows_of(store, "SELECT count(*) FROM budget_holds JOIN requests USING (request_id)")
    assert twice == [(0,)], "a request has a row and was cut off"
    open_holds = rows_of(store, "SELECT count(*) FROM budget_holds WHERE cut_off_nanousd IS NULL")
    assert open_holds == [(0,)], "a hold has outlived its request"
    spent = dict(rows_of(store, "SELECT tenant, sum(spent_nanousd) FROM tenant_days GROUP BY 1"))
    booked = dict(rows_of(store, "SELECT tenant, sum(coalesce(cost_nanousd, 0)) FROM requests "
                                 "GROUP BY 1"))
    cut = dict(rows_of(store, "SELECT tenant, sum(cut_off_nanousd) FROM budget_holds GROUP BY 1"))
    for tenant, nanousd in spent.items():
        assert nanousd == booked.get(tenant, 0) + cut.get(tenant, 0), (tenant, nanousd)
    told = sum(cost for _, cost in answers.values())
    assert told <= sum(spent.values()), "what callers were told is not spent"
    verify = subprocess.run([binary, "ledger", "verify", store], capture_output=True, text=True)
    assert verify.returncode == 0, verify.stderr
    return spent, cut


def refuses_to_start(binary, tenants, *flags):
    done = subprocess.run([binary, "serve", "--model", "null", "--tenants", tenants, "--port", "0",
                           "--admin-port", "0", *flags], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done
    return done.stderr


def main():
    binary = f"{sys.argv[1]}/service/tuppence"
    kills, draw = kills_asked_for(6)
    while DAY_NS - time.time_ns() % DAY_NS < 90e9:  # a budget of the day ends with the day
        time.sleep(1)
    with temporary_folder() as folder, contextlib.ExitStack() as stack:
        store, tenants = f"{folder}/usage.db", f"{folder}/tenants.json"
        with open(tenants, "w") as file:
            day = lambda usd: {"budget": {"usd": usd, "per": "day"}}
            json.dump({"tenants": {"tenant-0": day(1), "tenant-1": {}, "small": day(0.0005),
                                   "long": {"budget": {"usd": 1, "per": "month"}}}}, file)
        assert "--usage-store FILE" in refuses_to_start(binary, tenants, "--price-per-hour", "1")
        assert "--price-per-hour" in refuses_to_start(binary, tenants, "--usage-store", store)
        service = Service(binary, folder, "budgets", str(root / "deploy/demo_model/checkpoint"),
                          "--price-per-hour", "0.526", "--tenant-header", "x-tenant", "--tenants",
                          tenants, "--kv-memory", "32M", "--threads", "1", "--usage-store", store)
        stack.callback(lambda: service.process.kill())
        api = make_api(folder)
        service.wait_ready()
        told = use_up(api, service, "small")
        expect_used_up(api, service, "small")
        callers = Acknowledged(api, service)
        for _ in range(kills):
            live_and_die(service, draw.uniform(0, 0.6))
        service.wait_ready()
        expect_used_up(api, service, "small")
        callers.stop()
        assert service.sum_of("tuppence_budget_exhausted", tenant="small") == 1
        spent_shown = service.sum_of("tuppence_budget_spent_usd", tenant="small")
        assert round(spent_shown * 1e9) == told, (spent_shown, told)
        # What its requests took beyond the step-cost model is all that it may be passed by.
        assert 250_000 < told < 750_000, told
        held, cut_off = cut_off_by_a_kill(api, service, store)
        assert 0 < cut_off <= held, (held, cut_off)
        service.stop()
        spent, cut = check_spend(binary, store, callers.answers)
    assert len(callers.answers) >= kills, f"only {len(callers.answers)} answers: no load"
    assert spent["small"] == told and spent["long"] == cut["long"] == cut_off
    print(f"{kills + 1} kills: {len(callers.answers)} answers acknowledged and spent once; cut off "
          f"{sum(cut.values())} nano-USD; a budget of 500,000 stayed used up at {told}")


if __name__ == "__main__":
    main()
