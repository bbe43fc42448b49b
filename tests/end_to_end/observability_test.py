"""What operators see of a running service, with Debian's own Prometheus: names pass promtool's lint,
prices by recording rule agree with what callers were told though one of two services restarts, each
panel of the dashboard finds finite series under load, and alerts fire when their cause is there.

    python3 tests/end_to_end/observability_test.py build/cpu
"""
import base64
import contextlib
import json
import math
import resource
import shutil
import subprocess
import sys
import threading
import time

import grpc

from observed_service import (Load, Prometheus, Service, Stub, make_api, root, temporary_folder,
                              trailers_on_the_wire, wait_for)

LOAD_SECONDS = 24
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def say(text):
    print(f"{time.monotonic() - began:5.1f} s  {text}", flush=True)


def check_names(service):
    """vLLM's names have colons, which promtool leaves to recording rules; ours are linted."""
    page = service.page()
    ours = "\n".join(line for line in page.splitlines() if "vllm:" not in line) + "\n"
    lint = subprocess.run(["promtool", "check", "metrics"], input=ours, capture_output=True,
                          text=True)
    assert lint.returncode == 0 and not lint.stderr, lint.stdout + lint.stderr


class Told:
    """What callers were told their answers cost."""

    def __init__(self, messages):
        usd = {"prefill": 0.0, "decode": 0.0}
        tokens = {"prompt": 0, "completion": 0}
        for message in messages:
            cost = message.cost
            prefill = cost.prefill_ns / max(1, cost.machine_ns)
            usd["prefill"] += 1e-9 * cost.cost_nanousd * prefill
            usd["decode"] += 1e-9 * cost.cost_nanousd * (1 - prefill)
            tokens["prompt"] += message.usage.prompt_tokens
            tokens["completion"] += message.usage.completion_tokens
        self.usd = sum(usd.values())
        self.per_million = {"prompt": 1e6 * usd["prefill"] / tokens["prompt"],
                            "completion": 1e6 * usd["decode"] / tokens["completion"]}


def expect_close(name, found, expected, tolerance):
    error = abs(found - expected) / expected
    say(f"{name}: {found:.6f}, expected {expected:.6f} ({100 * error:.2f} % off)")
    assert error <= tolerance, f"{name} is off by more than {100 * tolerance:.0f} %"


def first_sample(prometheus, service):
    """The cost that the first scrape found: Prometheus sees no increase in what was there already."""
    series = prometheus.query(f'tuppence_cost_usd_total{{instance="{service.instance}"}}[10m]')
    return sum(float(one["values"][0][1]) for one in series)


def check_prices(prometheus, api, steady, restarted):
    """One of two services is restarted in the middle of the load."""
    for service in (steady, restarted):
        prometheus.wait_for_series(
            f'tuppence_request_tokens_total{{instance="{service.instance}"}}')
    loads = [Load(api, service, callers=2) for service in (steady, restarted)]
    time.sleep(LOAD_SECONDS / 2)
    loads[1].stop()
    time.sleep(1.2)  # two scrapes: what is counted after the last one is lost to Prometheus
    machine_usd = restarted.sum_of("tuppence_cost_usd_total")
    restarted.stop()
    restarted.start()
    restarted.wait_ready()
    told = loads[1].closing
    loads[1] = Load(api, restarted, callers=2)
    time.sleep(LOAD_SECONDS / 2)
    for load in loads:
        load.stop()
    time.sleep(2.5)  # a scrape, then an evaluation
    told = Told(told + loads[0].closing + loads[1].closing)
    for kind in ("prompt", "completion"):
        rule = f"namespace_model:tuppence_usd_per_million_{kind}_tokens"
        [usage] = prometheus.query(f"{rule}:usage1h")
        expect_close(f"USD per million {kind} tokens, usage", float(usage["value"][1]),
                     told.per_million[kind], 0.01)
        # A machine costs while nothing is asked: both sides at the moment of the rule. At the
        # three beginnings and the restart's end, up to two scrapes (500 ms, one of them late) are
        # missed, of two services' 28 s: 4 x 0.5 / 56, 4 %.
        [at] = prometheus.query(f"timestamp({rule}:allocation1h)")
        [allocation] = prometheus.query(f"{rule}:allocation1h")
        all_usd = machine_usd + sum(
            service.sum_of("tuppence_cost_usd_total") - first_sample(prometheus, service)
            - service.sum_of("tuppence_rate_usd_per_hour") / 3600
            * (time.time() - float(at["value"][1]))
            for service in (steady, restarted))
        expect_close(f"USD per million {kind} tokens, allocation", float(allocation["value"][1]),
                     told.per_million[kind] * all_usd / told.usd, 0.04)


def check_panels(prometheus):
    """Every query of the dashboard, as Grafana would ask it."""
    dashboard = json.loads((root / "deploy/grafana/tuppence.json").read_text())
    asked = 0
    now = time.time()
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "10s")
            for variable in ("model_name", "namespace", "pod", "instance"):
                expression = expression.replace(f"${variable}", ".*")
            series = prometheus.ask("query_range", query=expression, start=now - 8, end=now,
                                    step=1)["result"]
            assert series, f"{panel['title']}: no series for {expression}"
            for one in series:
                values = [float(value) for _, value in one["values"]]
                assert all(map(math.isfinite, values)), f"{panel['title']}: {expression}: {one}"
            asked += 1
    say(f"{asked} queries of {len(dashboard['panels'])} panels find finite series")


def misbehave(api, service):
    """One of each: cancelled, timed out, refused; and one whose trace is carried through."""
    stub = Stub(api, service)
    call = stub.start(max_tokens=400)
    next(iter(call))
    call.cancel()
    with contextlib.suppress(grpc.RpcError):
        stub.ask(max_tokens=1500, timeout=0.1)
    with contextlib.suppress(grpc.RpcError):
        stub.ask(max_tokens=100000)
    traced = stub.start(metadata=(("traceparent", TRACEPARENT),))
    for _ in traced:
        pass
    trailers = trailers_on_the_wire(service, stub.request())
    assert trailers["grpc-status"] == "0", trailers
    load_report = base64.b64decode(trailers["endpoint-load-metrics-bin"] + "==")
    assert b"machine_seconds" in load_report and b"usd" in load_report, load_report
    wait_for("the log names the trace",
             lambda: any(line.get("traceparent") == TRACEPARENT and line["machine_ns"] > 0
                         for line in service.log_lines()), 5)
    for outcome in ("cancelled", "deadline"):
        wait_for(f"a request that ended {outcome} is counted",
                 lambda: service.sum_of("tuppence_requests_ended_total", outcome=outcome) > 0, 5)


def check_status(binary, service):
    done = subprocess.run([binary, "status", "--address", service.instance, "--json"],
                          capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert status["ready"] and status["conservation_error_ns"] == 0, status
    assert status["rate_card"]["usd_per_hour"] > 0 and status["last_step"]["steps"] > 0
    people = subprocess.run([binary, "status", "--address", service.instance], capture_output=True,
                            text=True, timeout=10)
    assert people.returncode == 0 and "rate card" in people.stdout, people
    gone = subprocess.run([binary, "status", "--address", "127.0.0.1:1"], capture_output=True,
                          text=True, timeout=10)
    assert gone.returncode == 1 and "--admin-port" in gone.stderr, gone


def fill_queue(api, service, seconds=8):
    """More callers than there are places, each asking again at once."""
    end = time.monotonic() + seconds

    def call():
        stub = Stub(api, service)
        while time.monotonic() < end:
            with contextlib.suppress(grpc.RpcError):
                stub.ask(max_tokens=60)

    callers = [threading.Thread(target=call, daemon=True) for _ in range(12)]
    for caller in callers:
        caller.start()
    return callers


def check_alerts(prometheus, api, busy, broken, fragile):
    """Each cause on a running service, and its alert."""
    for alert in ("TuppenceQueueFull", "TuppenceEngineStuck", "TuppenceUnrecordable"):
        assert not prometheus.firing(alert), f"{alert} fires without a cause"
    assert prometheus.firing("TuppenceLedgerError") <= {broken.instance}
    assert prometheus.firing("TuppenceRateCardMissing") <= {broken.instance}
    prometheus.wait_firing("TuppenceRateCardMissing", broken)
    prometheus.wait_firing("TuppenceLedgerError", broken)
    callers = fill_queue(api, busy)
    prometheus.wait_firing("TuppenceQueueFull", busy)
    for caller in callers:
        caller.join()
    with fragile.engine_held():
        prometheus.wait_firing("TuppenceEngineStuck", fragile)
    wait_for("TuppenceEngineStuck is over",
             lambda: not prometheus.firing("TuppenceEngineStuck"), 15)
    check_disk_full(prometheus, api, fragile)
    broken.process.kill()
    prometheus.wait_firing("TuppenceTargetDown", broken)


def check_disk_full(prometheus, api, service):
    """The store's files may not grow any more, as on a full disk."""
    stub = Stub(api, service)
    none = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    with contextlib.suppress(grpc.RpcError):
        for _ in range(3):
            stub.ask(max_tokens=4, timeout=5)
    prometheus.wait_firing("TuppenceUnrecordable", service)
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, none)
    wait_for("TuppenceUnrecordable is over",
             lambda: not prometheus.firing("TuppenceUnrecordable"), 30)


def main():
    binary = f"{sys.argv[1]}/service/tuppence"
    demo = str(root / "deploy/demo_model/checkpoint")
    common = ("--tenant-header", "x-tenant", "--kv-memory", "32M", "--threads", "1")
    with temporary_folder() as folder, contextlib.ExitStack() as stack:
        api = make_api(folder)
        steady = Service(binary, folder, "steady", demo, "--price-per-hour", "0.526",
                         "--queue-requests-max", "4", "--usage-store", f"{folder}/steady.db",
                         *common)
        restarted = Service(binary, folder, "restarted", demo, "--price-per-hour", "1.05",
                            "--usage-store", f"{folder}/restarted.db", *common)
        # No price; and a fire drill of a nanosecond in the ledger.
        broken = Service(binary, folder, "broken", "null", "--conservation-drill-ns", "1")
        services = (steady, restarted, broken)
        for service in services:
            stack.callback(lambda one=service: one.process.kill())
        for service in services:
            service.wait_ready()
        prometheus = Prometheus(folder, services)
        stack.callback(prometheus.process.kill)
        say("two services, one without a price, and Prometheus are up")
        check_names(steady)
        check_prices(prometheus, api, steady, restarted)
        load = Load(api, steady, callers=3)
        stack.callback(load.stop)
        misbehave(api, restarted)
        check_status(binary, steady)
        time.sleep(12)
        check_panels(prometheus)
        load.stop()
        check_alerts(prometheus, api, steady, broken, restarted)
        assert steady.sum_of("tuppence_conservation_error_seconds") == 0
        assert restarted.sum_of("tuppence_conservation_error_seconds") == 0
        for service in (steady, restarted):
            assert "order order" not in service.page(), "a prompt's text is on the page"
        say("done")
    shutil.rmtree(folder, ignore_errors=True)


began = time.monotonic()
main()
