"""What operators see of a running service, with Debian's own Prometheus: names pass promtool's lint,
each panel of the dashboard finds finite series after a minute of load, prices by recording rule agree
with the stores though one of two services restarts, and alerts fire when their cause is there.

    python3 tests/end_to_end/observability_test.py build/cpu
"""
import base64
import contextlib
import itertools
import json
import math
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import threading
import time

import grpc

from observed_service import (Load, Prometheus, Service, Stub, make_api, root, rows_of, temporary_folder,
                              trailers_on_the_wire, wait_for)

LOAD_SECONDS = 60
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def say(text):
    print(f"{time.monotonic() - began:5.1f} s  {text}", flush=True)


def check_names(service, *expected):
    """vLLM's names have colons, which promtool leaves to recording rules; ours are linted."""
    page = service.page()
    for family in expected:
        assert "\n" + family in page, f"{family} is not on the page"
    ours = "\n".join(line for line in page.splitlines() if "vllm:" not in line) + "\n"
    lint = subprocess.run(["promtool", "check", "metrics"], input=ours, capture_output=True,
                          text=True)
    assert lint.returncode == 0 and not lint.stderr, lint.stdout + lint.stderr


class Stores:
    """What the stores of both services say of all that they were asked, once both have ended."""

    def __init__(self, binary, paths):
        usd = {"prompt": 0.0, "completion": 0.0}
        tokens = {"prompt": 0, "completion": 0}
        for path in paths:
            rows = rows_of(path, "SELECT prompt_tokens, completion_tokens, machine_ns, prefill_ns, "
                           "cost_nanousd FROM requests WHERE machine_ns > 0")
            for prompt, completion, machine_ns, prefill_ns, nanousd in rows:
                usd["prompt"] += 1e-9 * nanousd * prefill_ns / machine_ns
                usd["completion"] += 1e-9 * nanousd * (1 - prefill_ns / machine_ns)
                tokens["prompt"] += prompt
                tokens["completion"] += completion
        self.per_million = {kind: 1e6 * usd[kind] / tokens[kind] for kind in usd}
        self.usage_usd = sum(usd.values())
        invoice = json.loads(subprocess.run([binary, "invoice", *paths, "--format", "json"],
                                            capture_output=True, text=True, check=True).stdout)
        self.machines_usd = 1e-9 * invoice["total"]["cost_nanousd"]


def expect_close(name, found, expected):
    error = abs(found - expected) / expected
    say(f"{name}: {found:.6f}, by the stores {expected:.6f} ({100 * error:.2f} % off)")
    assert error <= 0.01, f"{name} is off by more than 1 %"


def first_sample(prometheus, service):
    """The cost that the first scrape found: Prometheus sees no increase in what was there already."""
    series = prometheus.query(f'tuppence_cost_usd_total{{instance="{service.instance}"}}[10m]')
    return sum(float(one["values"][0][1]) for one in series)


def load_and_restart(prometheus, api, binary, folder, steady, restarted):
    """A minute of load on two services, one of which is restarted in the middle; then both are
    ended, so that their stores hold all there is to know, and started again. Each ends under load:
    what it does after its last scrape is lost to Prometheus, answers and machine time alike."""
    services = (steady, restarted)
    for service in services:
        prometheus.wait_for_series(
            f'tuppence_request_tokens_total{{instance="{service.instance}"}}')
    end = time.monotonic() + LOAD_SECONDS
    loads = [Load(api, service, callers=2) for service in services]
    misbehave(api, restarted)
    check_status(binary, steady)
    time.sleep(max(0, end - LOAD_SECONDS / 2 - time.monotonic()))
    restarted.stop()
    restarted.start()
    restarted.wait_ready()
    misbehave(api, restarted)  # the series of these outcomes began anew
    time.sleep(max(0, end - time.monotonic()))
    check_panels(prometheus)
    for service in services:
        check_names(service, "tuppence_budget_spent_usd{")  # with all that load brings
    for service in services:
        service.stop()
    for load in loads:
        load.stop()
    time.sleep(1.5)  # an evaluation
    check_prices(prometheus, services,
                 Stores(binary, [f"{folder}/{service.name}.db" for service in services]))
    for service in services:
        service.start()
    for service in services:
        service.wait_ready()


def check_prices(prometheus, services, stores):
    unseen_usd = sum(first_sample(prometheus, service) for service in services)
    over_usage = (stores.machines_usd - unseen_usd) / stores.usage_usd
    for kind, usd in stores.per_million.items():
        rule = f"namespace_model:tuppence_usd_per_million_{kind}_tokens"
        for basis, expected in (("usage", usd), ("allocation", usd * over_usage)):
            [price] = prometheus.query(f"{rule}:{basis}1h")
            expect_close(f"USD per million {kind} tokens, {basis}", float(price["value"][1]),
                         expected)


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
    def counted(outcome):
        return service.sum_of("tuppence_requests_ended_total", outcome=outcome) > 0

    def times_out():
        """The caller's own clock may be first, and its going away is then a cancellation."""
        with contextlib.suppress(grpc.RpcError):
            stub.ask(max_tokens=1500, timeout=0.3)
        return counted("deadline")
    wait_for("a request that ended cancelled is counted", lambda: counted("cancelled"), 5)
    wait_for("a request that ended deadline is counted", times_out, 5)


def check_status(binary, service):
    done = subprocess.run([binary, "status", "--address", service.instance, "--json"],
                          capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert status["ready"] and status["conservation_error_ns"] == 0, status
    assert status["rate_card"]["usd_per_hour"] > 0 and status["last_step"]["steps"] > 0
    people = subprocess.run([binary, "status", "--address", service.instance], capture_output=True,
                            text=True, timeout=10)
    assert people.returncode == 0, people
    lines = {line[:11].strip() for line in people.stdout.splitlines()}
    assert lines >= {"build", "model", "kernels", "queue", "kv", "rate card", "last step", "books",
                     "store", "requests"}, people.stdout
    gone = subprocess.run([binary, "status", "--address", "127.0.0.1:1"], capture_output=True,
                          text=True, timeout=10)
    assert gone.returncode == 1 and "--admin-port" in gone.stderr, gone


def check_runbook(binary):
    """The commands of ours that it names exist, with their flags."""
    commands = re.findall(r"^tuppence ([^#\n]*)", (root / "deploy/RUNBOOK.md").read_text(), re.M)
    for words in {tuple(command.split()) for command in commands}:
        names = itertools.takewhile(str.islower, words)
        names = [name for name in names if not name.startswith("--")]
        told = subprocess.run([binary, *names, "--help"], capture_output=True, text=True)
        assert told.returncode == 0, (words, told.stderr)
        for flag in (word for word in words if word.startswith("--")):
            assert flag in told.stdout, f"tuppence {' '.join(words)}: there is no {flag}"


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
    check_disk_full(prometheus, api, busy, serves=False)
    check_disk_full(prometheus, api, fragile, serves=True)
    broken.process.kill()
    prometheus.wait_firing("TuppenceTargetDown", broken)


def expect_refused(stub):
    try:
        stub.ask(max_tokens=4, timeout=5)
        raise AssertionError("a request was served that cannot be recorded")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        assert "usage records" in error.details(), error


def check_disk_full(prometheus, api, service, serves):
    """The store's files may not grow any more, as on a full disk."""
    stub = Stub(api, service)
    none = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    with contextlib.suppress(grpc.RpcError):
        stub.ask(max_tokens=4, timeout=5)  # its row is what cannot be written
    if serves:
        assert stub.ask(max_tokens=4, timeout=5).cost.unrecorded
        wait_for("its time is in the account unrecorded", lambda: service.sum_of(
            "tuppence_machine_seconds_total", account="unrecorded") > 0, 5)
    else:
        expect_refused(stub)
    prometheus.wait_firing("TuppenceUnrecordable", service)
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, none)
    wait_for("TuppenceUnrecordable is over",
             lambda: not prometheus.firing("TuppenceUnrecordable"), 30)
    assert not stub.ask(max_tokens=4, timeout=5).cost.unrecorded


def small_file_system(folder):
    """A tmpfs of a megabyte for whoever is started through the prefix that it gives; None where this
    machine lets nobody mount."""
    prefix = ["unshare", "--user", "--map-root-user", "--mount"]
    if os.geteuid() == 0:
        prefix = ["unshare", "--mount"]
    mounted = f"mount -t tmpfs -o size=1m tuppence {folder} && exec \"$@\""
    prefix += ["sh", "-c", mounted, "sh"]
    tried = subprocess.run([*prefix, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        say(f"a full file system is left out, for none can be mounted: {tried.stderr.strip()}")
        return None
    return prefix


def check_full_file_system(binary, folder, api, *flags):
    """No space left, as the kernel has it; with budgets, whose holds then wait for the store too."""
    small = pathlib.Path(folder) / "small"
    small.mkdir()
    prefix = small_file_system(small)
    if prefix is None:
        return
    for when in ("refuse", "serve"):
        service = Service(prefix + [binary], folder, f"full_{when}", *flags, "--usage-store",
                          f"{small}/usage.db", "--when-unrecordable", when)
        try:
            service.wait_ready()
            fill_and_empty(api, small, service, serves=when == "serve")
            service.stop()
        finally:
            service.process.kill()
    say("a full file system refuses, or serves unrecorded, and is told apart from a broken disk")


def fill_and_empty(api, small, service, serves):
    stub = Stub(api, service)
    assert not stub.ask(max_tokens=4).cost.unrecorded
    # Its file system is not in our tree.
    ballast = pathlib.Path(f"/proc/{service.process.pid}/root{small}/ballast")
    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    with contextlib.suppress(grpc.RpcError):
        stub.ask(max_tokens=4, timeout=5)  # its row is what cannot be written
    if serves:
        for _ in range(20):
            assert stub.ask(max_tokens=4).cost.unrecorded
    else:
        expect_refused(stub)
    told = "".join((service.folder / f"{service.name}.{end}").read_text() for end in ("out", "err"))
    assert "the disk is full" in told, told
    ballast.unlink()
    wait_for("the store is written again",
             lambda: service.sum_of("tuppence_store_unrecordable") == 0, 20)
    assert not stub.ask(max_tokens=4).cost.unrecorded
    # What was held for the requests of the meantime is held no more.
    wait_for("nothing is held", lambda: service.sum_of("tuppence_budget_held_usd") == 0, 10)
    assert service.sum_of("tuppence_conservation_error_seconds") == 0


def main():
    binary = f"{sys.argv[1]}/service/tuppence"
    demo = str(root / "deploy/demo_model/checkpoint")
    with temporary_folder() as folder, contextlib.ExitStack() as stack:
        api = make_api(folder)
        tenants = pathlib.Path(folder) / "tenants.json"
        tenants.write_text('{"others": {"budget": {"usd": 1000, "per": "day"}}}')
        common = ("--tenant-header", "x-tenant", "--kv-memory", "32M", "--threads", "1")
        steady = Service(binary, folder, "steady", demo, "--price-per-hour", "1.05",
                         "--queue-requests-max", "4", "--usage-store", f"{folder}/steady.db",
                         "--tenants", str(tenants), *common)
        restarted = Service(binary, folder, "restarted", demo, "--price-per-hour", "0.526",
                            "--usage-store", f"{folder}/restarted.db", "--when-unrecordable",
                            "serve", "--tenants", str(tenants), *common)
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
        check_runbook(binary)
        load_and_restart(prometheus, api, binary, folder, steady, restarted)
        check_full_file_system(binary, folder, api, demo, "--price-per-hour", "1", "--tenants",
                               str(tenants), *common)
        check_alerts(prometheus, api, steady, broken, restarted)
        assert steady.sum_of("tuppence_conservation_error_seconds") == 0
        assert restarted.sum_of("tuppence_conservation_error_seconds") == 0
        for service in (steady, restarted):
            assert "order order" not in service.page(), "a prompt's text is on the page"
        say("done")
    shutil.rmtree(folder, ignore_errors=True)


began = time.monotonic()
main()
