"""`tuppence serve` as the benchmarks here start, load and read it, on ports of their own."""
import contextlib
import json
import pathlib
import re
import subprocess
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEMO = str(ROOT / "deploy/demo_model/checkpoint")
PORT, ADMIN_PORT, HTTP_PORT = 9480, 9481, 9482
MIB = 1 << 20


def page(name):
    """Of the admin port."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{ADMIN_PORT}/{name}", timeout=10) as answer:
        return answer.read().decode()


def metric(name):
    """The sum of a family's samples."""
    return sum(float(line.rsplit(" ", 1)[1]) for line in page("metrics").splitlines()
               if re.match(name + r"(\{| )", line))


class Service:
    """Ready; its life is timed from just before exec to just after exit."""

    def __init__(self, build, model, *flags, http=False):
        self.began_ns = time.monotonic_ns()
        door = ["--http-port", str(HTTP_PORT)] if http else []
        self.process = subprocess.Popen(
            [f"{build}/service/tuppence", "serve", "--model", model, "--port", str(PORT), "--admin-port",
             str(ADMIN_PORT), "--log-level", "warning", *door, *flags], stdout=subprocess.DEVNULL)
        while True:
            assert self.process.poll() is None, "the service ended before it was ready"
            with contextlib.suppress(OSError):
                page("readyz")
                return
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.life_ns = time.monotonic_ns() - self.began_ns

    def memory_bytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status).group(1))


class MemoryWatch:
    """A service's resident bytes, five times a second."""

    def __init__(self, service):
        self.samples, self.done = [], threading.Event()
        self.thread = threading.Thread(target=self.watch, args=(service,))

    def watch(self, service):
        while not self.done.wait(0.2):
            self.samples.append(service.memory_bytes())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


def load(build, *flags, door="grpc", refusals=False):
    """serve_bench's result. It exits 1 where calls failed, which only `refusals` allows."""
    http = ["--http", f"127.0.0.1:{HTTP_PORT}"] if door == "http" else []
    with tempfile.NamedTemporaryFile(suffix=".json") as result:
        subprocess.run([f"{build}/bench/serve_bench", "--address", f"127.0.0.1:{PORT}", *http, *flags, "--json",
                        result.name], stdout=subprocess.DEVNULL, check=not refusals)
        return json.loads(pathlib.Path(result.name).read_text())
