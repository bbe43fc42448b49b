"""The emulated GPU breaks in the middle of an answer, as a GPU does after a bad access: the call ends UNAVAILABLE, what it used is
booked, health says NOT_SERVING, and the process ends by itself with its own exit code.

    python3 tests/cuda_emulated/failure_test.py build/cpu
"""
import contextlib
import os
import pathlib
import sqlite3
import subprocess
import sys
import tempfile
import time

import grpc

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "end_to_end"))
from observed_service import Service, get, make_api, root  # noqa: E402

ENGINE_FAILED = 3  # as service/serve.cc says
build = pathlib.Path(sys.argv[1])

with tempfile.TemporaryDirectory() as folder:
    api = make_api(folder)
    broken = pathlib.Path(folder) / "broken"
    store = pathlib.Path(folder) / "usage.db"
    os.environ["TUPPENCE_EMULATED_FAILURE"] = str(broken)
    service = Service(build / "tests/cuda_emulated/tuppence_emulated", folder, "service", root / "deploy/demo_model/checkpoint",
                      "--backend", "emulated", "--usage-store", str(store), "--sequences-max", "4", "--step-tokens-max", "64",
                      "--price-per-hour", "0.526")
    service.wait_ready()
    request = api.GenerateRequest(sampling=api.SamplingParams(temperature=0, max_tokens=400, ignore_eos=True))
    request.chat.messages.add(role=api.ROLE_USER, content="Where is my order 48213?")
    channel = grpc.insecure_channel(f"127.0.0.1:{service.port}", options=[("grpc.enable_http_proxy", 0)])
    generate = channel.unary_stream("/tuppence.v1.Inference/Generate", api.GenerateRequest.SerializeToString,
                                    api.GenerateResponse.FromString)
    messages = 0
    code, details, not_ready = None, "", False
    try:
        for message in generate(request, timeout=60):
            messages += 1
            if messages == 2:
                broken.write_text("")
                broke_at = time.monotonic()
    except grpc.RpcError as error:
        code, details = error.code(), error.details()
    with contextlib.suppress(OSError):  # an error status is one, and so is a port that has gone
        get(f"http://{service.instance}/readyz")
        not_ready = True
    assert code == grpc.StatusCode.UNAVAILABLE, (code, details)
    assert "illegal memory access" in details and "send to another replica" in details, details
    assert not not_ready, "the service still says that it is ready"
    exit_code = service.process.wait(60)
    assert exit_code == ENGINE_FAILED, exit_code
    print(f"ended with exit code {exit_code} {time.monotonic() - broke_at:.1f} s after the failure: {details}")

    verify = subprocess.run([build / "service/tuppence", "ledger", "verify", store], text=True, stdout=subprocess.PIPE, check=True)
    with contextlib.closing(sqlite3.connect(store)) as books:
        rows = books.execute("SELECT outcome, code, completion_tokens, machine_ns, written_off FROM requests").fetchall()
    assert len(rows) == 1, rows
    outcome, booked_code, tokens, machine_ns, written_off = rows[0]
    assert booked_code == grpc.StatusCode.UNAVAILABLE.value[0] and tokens >= 1 and machine_ns > 0, rows
    print(f"booked: {outcome}, {tokens} tokens, {machine_ns} ns of the machine, written off {written_off}; "
          + verify.stdout.strip().splitlines()[-1])
