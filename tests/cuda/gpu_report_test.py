"""bench/gpu_check.sh's last part, rehearsed without a GPU: gpu_bench on the emulated one, peers, tables and projections; and the
projection's arithmetic on numbers that are easy to follow.

    python3 tests/cuda/gpu_report_test.py build/cpu
"""
import json
import pathlib
import subprocess
import sys
import tempfile

root = pathlib.Path(__file__).resolve().parents[2]
bench = pathlib.Path(sys.argv[1]) / "bench" / "gpu_bench"


def run(*command):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def report(*arguments):
    return run(sys.executable, root / "bench" / "gpu_report.py", *arguments)


def table_rows(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


with tempfile.TemporaryDirectory() as folder:
    native, ptx75, peers, made = (pathlib.Path(folder) / name for name in ("native", "ptx75", "peers", "made"))
    native.write_text(run(bench, "--emulated"))
    ptx75.write_text(run(bench, "--emulated", "--f16"))
    peers.write_text(run(sys.executable, root / "bench" / "gpu_peers.py"))
    said = report("--ptx75", ptx75, native, peers)
    for start in ("Arithmetic emulated-sm80-bf16", "| device copy |", "| block copy |", "| matmul qkv int4 |", "| attention decode int8 |", "| add and norm |",
                  "| decode | bf16 | bf16 |", "| decode | int4 | int8 |", "| prefill | int8 |", "| T4 |", "| L4 |", "| A10G |"):
        assert table_rows(said, start), f"no line starts with {start!r} in:\n{said}"
    assert len(table_rows(said, "| decode | ")) == 6, said  # three weight formats, both KV types

    # This device copies 1000 GB/s and multiplies 100 TFLOP/s; a step of 32 that must move 5 GB takes 10 ms, half of the roofline. On an
    # L4 (300 GB/s) it would take at least 16.67 ms: 1,920 tokens/s at all of the roofline, 960 at half, 384 at the lowest share.
    made.write_text("\n".join(json.dumps(row) for row in (
        {"kernel": "device copy", "shape": "", "seconds": 1e-3, "bytes": 1e9, "flop": 0},
        {"kernel": "cublas qkv", "shape": "", "seconds": 1e-3, "bytes": 1e6, "flop": 1e11},
        {"step": "decode", "weights": "int4", "kv": "int8", "batch": "32", "tokens": "32", "context": "1024", "seconds": 1e-2,
         "bytes": 5e9, "flop": 1e11})))
    said = report(made)
    assert table_rows(said, "| decode | int4 | int8 | 32 | 1024 | 10.00 | 3200 | 50 % |"), said
    usd = [0.805 / (960 * 3600) * 1e6, 0.805 / (384 * 3600) * 1e6]
    expected = f"| L4 | 32 | 384 to 960 | {usd[0]:.3f} to {usd[1]:.3f} | {usd[0] / 0.3:.3f} to {usd[1] / 0.3:.3f} |"
    assert table_rows(said, expected), f"expected {expected} in:\n{said}"
    assert table_rows(said, "| T4 | - | not projected"), said
print("gpu_bench, gpu_peers.py and gpu_report.py agree")
