"""A running `tuppence serve`, a real Prometheus that scrapes it, and callers that put load on it.
Used by observability_test.py and kill_test.py. Everything ends with the test, whatever happens.
"""
import contextlib
import ctypes
import json
import os
import pathlib
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

import grpc

root = pathlib.Path(__file__).resolve().parents[2]


def make_api(folder):
    """The generated module of our proto."""
    subprocess.run(["protoc", f"-I{root}/proto", f"--python_out={folder}",
                    "tuppence/v1/tuppence.proto"], check=True)
    sys.path.append(folder)
    from tuppence.v1 import tuppence_pb2
    return tuppence_pb2


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url, timeout=10):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=timeout) as answer:
        return answer.read().decode()


def wait_for(what, done, seconds, every=0.1):
    end = time.monotonic() + seconds
    while True:
        answer = done()
        if answer:
            return answer
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(every)


def rows_of(store, sql, *values):
    """The connection is closed here: left to the collector, that comes, and locks, at any later time."""
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
        return database.execute(sql, values).fetchall()


def start_process(command, **streams):
    """Ends with the test. A file that may not grow is an error of its write there, not a signal: as
    Python has it, the signal is ignored. No Python runs in the child, which gRPC's threads forbid."""
    return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], restore_signals=False,
                            **streams)


def kills_asked_for(default):
    """From the command line, BUILD [KILLS] [SEED]: how many, and what draws their moments."""
    kills = int(sys.argv[2]) if len(sys.argv) > 2 else default
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.SystemRandom().getrandbits(32)
    print(f"{kills} kills, seed {seed}", flush=True)
    return kills, random.Random(seed)


class Service:
    """`tuppence serve`; on the same ports again after a restart. binary: its path, or a command that
    ends with it."""

    def __init__(self, binary, folder, name, model, *flags):
        self.name = name
        self.port, self.admin_port = free_port(), free_port()
        self.folder = pathlib.Path(folder)
        command = binary if isinstance(binary, list) else [binary]
        self.command = [*command, "serve", "--model", model, "--port", str(self.port),
                        "--admin-port", str(self.admin_port), "--log-level", "warning", *flags]
        self.process = None
        self.lives = []  # of each process, seen from outside: asked for, gone; monotonic ns
        self.start()

    @property
    def instance(self):
        return f"127.0.0.1:{self.admin_port}"

    def start(self):
        with open(self.folder / f"{self.name}.out", "a") as out, \
                open(self.folder / f"{self.name}.err", "a") as err:
            self.lives.append([time.monotonic_ns(), None])
            self.process = start_process(self.command, stdout=out, stderr=err)

    def wait_ready(self):
        def ready():
            assert self.process.poll() is None, \
                f"{self.name} ended: " + (self.folder / f"{self.name}.err").read_text()
            with contextlib.suppress(OSError):
                return get(f"http://{self.instance}/readyz")
        wait_for(f"{self.name} is ready", ready, 60)

    def stop(self):
        self._end(signal.SIGTERM)

    def kill(self):
        self._end(signal.SIGKILL)

    def _end(self, how):
        self.process.send_signal(how)
        self.process.wait(30)
        self.lives[-1][1] = time.monotonic_ns()

    def page(self):
        return get(f"http://{self.instance}/metrics")

    def sum_of(self, family, **labels):
        """Of the samples of a family whose labels are those."""
        total = 0
        for line in self.page().splitlines():
            if not line.startswith(family + "{"):
                continue
            if all(f'{name}="{value}"' in line for name, value in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def log_lines(self):
        lines = (self.folder / f"{self.name}.out").read_text().splitlines()
        return [json.loads(line) for line in lines]

    @contextlib.contextmanager
    def engine_held(self):
        """The engine's thread alone is stopped, as if its device hung; the ports still answer."""
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task")
        thread = next(int(task.name) for task in tasks.iterdir()
                      if (task / "comm").read_text().strip() == "engine")
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long] * 4
        seize, interrupt, detach = 0x4206, 0x4207, 17
        for request in (seize, interrupt):
            assert libc.ptrace(request, thread, 0, 0) == 0, os.strerror(ctypes.get_errno())
        os.waitpid(thread, 0x40000000)  # __WALL
        try:
            yield
        finally:
            libc.ptrace(detach, thread, 0, 0)


class Prometheus:
    """Debian's server with the rules and alerts of deploy/prometheus, time running faster: each
    alert's waits and windows are seconds."""

    def __init__(self, folder, services, extra_targets=()):
        self.port = free_port()
        folder = pathlib.Path(folder)
        rules = (root / "deploy/prometheus/rules.yml").read_text()
        rules = rules.replace("interval: 30s", "interval: 1s").replace("[1h:15s]", "[1h:100ms]")
        (folder / "rules.yml").write_text(rules)
        alerts = (root / "deploy/prometheus/alerts.yml").read_text()
        alerts = re.sub(r"for: \d+[smh]", "for: 1s", alerts)
        alerts = re.sub(r"\[\d+[mh]\]", "[10s]", alerts)
        assert "tuppence_engine_silent_seconds > 30" in alerts
        alerts = alerts.replace("tuppence_engine_silent_seconds > 30",
                                "tuppence_engine_silent_seconds > 3")
        (folder / "alerts.yml").write_text(alerts)
        targets = json.dumps([s.instance for s in services] + list(extra_targets))
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 1s}\n"
            "rule_files: [rules.yml, alerts.yml]\n"
            f"scrape_configs: [{{job_name: tuppence, static_configs: [{{targets: {targets}}}]}}]\n")
        with open(folder / "prometheus.err", "w") as err:
            self.process = start_process(
                ["prometheus", f"--config.file={folder}/prometheus.yml",
                 f"--storage.tsdb.path={folder}/tsdb", "--log.level=warn",
                 f"--web.listen-address=127.0.0.1:{self.port}"],
                stdout=err, stderr=err, env={**os.environ, "GOMAXPROCS": "1"})

    def ask(self, path, **parameters):
        answer = json.loads(get(f"http://127.0.0.1:{self.port}/api/v1/{path}?"
                                + urllib.parse.urlencode(parameters)))
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression):
        return self.ask("query", query=expression)["result"]

    def wait_for_series(self, expression, seconds=30):
        def found():
            with contextlib.suppress(OSError):
                return self.query(expression)
        return wait_for(expression, found, seconds)

    def firing(self, alert):
        """Instances for which it fires."""
        return {a["labels"].get("instance", "") for a in self.ask("alerts")["alerts"]
                if a["labels"]["alertname"] == alert and a["state"] == "firing"}

    def wait_firing(self, alert, service, seconds=20):
        wait_for(f"{alert} fires for {service.name}",
                 lambda: service.instance in self.firing(alert), seconds)
        print(f"  {alert} fires", flush=True)


class Load:
    """Callers of one service, each asking again once it has its answer. Keeps the closing messages."""

    def __init__(self, api, service, callers):
        self.api, self.service = api, service
        self.closing = []
        self.failures = []
        self.ending = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._run, args=(i,), daemon=True)
                        for i in range(callers)]
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.ending.set()
        for thread in self.threads:
            thread.join()

    def _run(self, number):
        stub = Stub(self.api, self.service)
        asked = 0
        while not self.ending.is_set():
            asked += 1
            try:
                last = stub.ask(words=5 + 7 * ((asked + number) % 4), tenant=f"tenant-{number % 3}",
                                max_tokens=12 + 10 * (asked % 3))
                with self.lock:
                    self.closing.append(last)
            except grpc.RpcError as error:
                # While the service restarts nobody is there.
                with self.lock:
                    self.failures.append(error.code())
                time.sleep(0.2)


class Stub:
    def __init__(self, api, service):
        self.api = api
        self.channel = grpc.insecure_channel(f"127.0.0.1:{service.port}", options=[
            ("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_reconnect_backoff_ms", 300), ("grpc.initial_reconnect_backoff_ms", 100)])
        self.generate = self.channel.unary_stream(
            "/tuppence.v1.Inference/Generate", api.GenerateRequest.SerializeToString,
            api.GenerateResponse.FromString)

    def request(self, words=10, max_tokens=20):
        request = self.api.GenerateRequest()
        request.sampling.max_tokens = max_tokens
        request.sampling.ignore_eos = True
        request.chat.messages.add(role=self.api.ROLE_USER, content="order " * words)
        return request

    def start(self, tenant="tenant-0", timeout=30, metadata=(), **request):
        return self.generate(self.request(**request), timeout=timeout,
                             metadata=(("x-tenant", tenant), *metadata))

    def ask(self, **arguments):
        for message in self.start(**arguments):
            pass
        return message


def trailers_on_the_wire(service, request):
    """As an endpoint picker sees them: gRPC's own client keeps endpoint-load-metrics-bin to itself."""
    body = request.SerializeToString()
    done = subprocess.run(
        ["curl", "--silent", "--noproxy", "*", "--http2-prior-knowledge", "--dump-header",
         "-", "--output", "/dev/null", "--header", "content-type: application/grpc",
         "--header", "te: trailers", "--data-binary", "@-",
         f"http://127.0.0.1:{service.port}/tuppence.v1.Inference/Generate"],
        input=b"\0" + len(body).to_bytes(4, "big") + body, capture_output=True, timeout=30, check=True)
    lines = [line.split(b": ", 1) for line in done.stdout.splitlines() if b": " in line]
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, value in lines}


def temporary_folder():
    return tempfile.TemporaryDirectory(prefix="tuppence_test_")
