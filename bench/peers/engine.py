"""What every engine of the comparison is asked to do, in the same words.

A Request is token ids and how many tokens to answer with, whatever they are: greedy, end-of-sequence ignored. An Answer
says when the request was handed over and when each token came back, on the machine's monotonic clock, seen by the caller.
"""
import abc
import dataclasses
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

READY_SECONDS_MAX = 600
ANSWER_SECONDS_MAX = 3600


class CannotError(Exception):
    """The engine has no way to do what it was asked."""


@dataclasses.dataclass
class Request:
    prompt: list[int]
    output: int
    at: float = 0.0  # seconds after the first is handed over


@dataclasses.dataclass
class Answer:
    submitted: float
    tokens: list[float]


class Engine(abc.ABC):
    """One engine with one weight type. All calls from one thread."""
    name: str
    version: str
    weights: str  # bits and scales, in words
    settings: str  # what it was started with

    @abc.abstractmethod
    def start(self) -> None:
        """Returns when it is ready to answer."""

    @abc.abstractmethod
    def run(self, requests: list[Request]) -> list[Answer]:
        """Hands each over at its time and returns when all are answered. Raises where one fails; CannotError
        where it never could."""

    @abc.abstractmethod
    def pid(self) -> int:
        """Its process, for its memory."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Ends its process."""

    def peak_bytes(self) -> int:
        """The largest resident memory that its process had, files it maps included."""
        status = pathlib.Path(f"/proc/{self.pid()}/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ServerEngine(Engine):
    """An engine that is a program with a port: a thread here for each request that is under way."""
    command: list[str]
    ready_url: str

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}: {' '.join(self.command)}")
            try:
                with urllib.request.urlopen(self.ready_url, timeout=1):
                    return
            except (OSError, urllib.error.HTTPError):
                time.sleep(0.05)
        raise RuntimeError(f"{self.name} was not ready within {READY_SECONDS_MAX} s")

    @abc.abstractmethod
    def stream(self, request: Request):
        """Yields, as they come, how many tokens came."""

    def run(self, requests):
        answers = [None] * len(requests)
        failures = []
        begin = time.monotonic()

        def ask(index, request):
            try:
                time.sleep(max(0.0, begin + request.at - time.monotonic()))
                answer = Answer(time.monotonic(), [])
                for count in self.stream(request):
                    answer.tokens += [time.monotonic()] * count
                answers[index] = answer
            except Exception as error:  # told by the caller, who waits for all
                failures.append(error)

        threads = [threading.Thread(target=ask, args=pair, daemon=True) for pair in enumerate(requests)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(ANSWER_SECONDS_MAX)
        if failures or None in answers:
            raise RuntimeError(f"{self.name} answered {sum(a is not None for a in answers)} of {len(requests)}: {failures[:1]}")
        return answers

    def pid(self):
        return self.process.pid

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
