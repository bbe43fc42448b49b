"""The whole service on the CUDA kernels, without a GPU: `tuppence_emulated` scores a text and answers a chat with the demo model,
as sm_80 and as sm_75, and says what the CPU backend says.

    python3 tests/cuda_emulated/service_test.py build/cpu
"""
import json
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

root = pathlib.Path(__file__).resolve().parents[2]
model = root / "deploy" / "demo_model" / "checkpoint"
program = pathlib.Path(sys.argv[1]) / "tests" / "cuda_emulated" / "tuppence_emulated"
text = "Your order 48213 was shipped with DHL and should arrive on 14 March 2026."


def score(*flags):
    answer = subprocess.run([program, "score", "--model", model, "--text", text, "--json", *flags], check=True, text=True,
                            stdout=subprocess.PIPE)
    return json.loads(answer.stdout)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answer(*flags):
    """What the demo model says to the example's question, and the line with its cost."""
    port, admin_port = free_port(), free_port()
    service = subprocess.Popen([program, "serve", "--model", model, "--port", str(port), "--admin-port", str(admin_port),
                                "--sequences-max", "4", "--step-tokens-max", "64", "--price-per-hour", "0.526",
                                "--log-level", "error", *flags], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        end = time.monotonic() + 60
        while True:
            try:
                opener.open(f"http://127.0.0.1:{admin_port}/readyz", timeout=5)
                break
            except OSError:
                assert service.poll() is None, "the service ended while it started"
                assert time.monotonic() < end, "the service was not ready within 60 s"
                time.sleep(0.1)
        said = subprocess.run([sys.executable, root / "deploy" / "examples" / "generate.py", f"127.0.0.1:{port}"], check=True,
                              text=True, stdout=subprocess.PIPE).stdout
        return said.rsplit("\n", 2)[:2]
    finally:
        service.send_signal(signal.SIGTERM)
        assert service.wait(30) == 0, "the service did not end well"


exact = score("--backend", "cpu", "--weights", "f32", "--kv", "f32")
# How far a token's log-probability may lie off on average: the roundings of 5 layers in the type, several times over (golden_test.cc
# holds the kernels to the bound that follows from the roundings; this is about the program).
for flags, arithmetic, off in ((("--backend", "emulated"), "emulated-sm80-bf16-3/bf16/bf16", 0.05),
                               (("--backend", "emulated-sm75"), "emulated-sm75-f16-3/f16/f16", 0.01),
                               (("--backend", "emulated", "--weights", "int8", "--kv", "int8"), "emulated-sm80-bf16-3/int8g128/int8",
                                0.1)):
    got = score(*flags)
    assert got["arithmetic_id"] == arithmetic, got["arithmetic_id"]
    differences = [abs(a["logprob"] - b["logprob"]) for a, b in zip(exact["tokens"][1:], got["tokens"][1:])]
    average = sum(differences) / len(differences)
    assert average < off, f"{flags}: log-probabilities are {average:.4f} off on average; at most {off} is allowed"
    print(f"score {' '.join(flags)}: {len(differences)} tokens, {average:.5f} off on average")

said, _ = answer("--backend", "cpu")
assert "48213" in said or "DHL" in said, said
for backend in ("emulated", "emulated-sm75"):
    same, cost = answer("--backend", backend)
    assert same == said, f"{backend} says {same!r}, the CPU {said!r}"
    tokens, dollars = re.fullmatch(r"(\d+) tokens, (\d+\.\d+) USD", cost).groups()
    assert int(tokens) > 5 and float(dollars) > 0, cost
    print(f"serve --backend {backend}: {same!r}, {cost}")

refused = subprocess.run([program, "serve", "--model", model, "--backend", "cuda"], text=True, stderr=subprocess.PIPE,
                         stdout=subprocess.PIPE)
assert refused.returncode != 0 and "this program has auto, cpu, emulated" in refused.stderr + refused.stdout, refused
print("--backend cuda is refused by name where the program has none")
