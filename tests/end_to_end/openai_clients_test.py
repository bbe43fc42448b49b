"""The real openai-python, LiteLLM and langchain-openai against the service, with base_url and key
changed and nothing else. Puts the clients into an environment of their own, once, starts the demo
model with keys, and runs openai_clients.py there, then once more with --strict: what they send is
known. Keys and tenants are read again on SIGHUP, for both doors.

    python3 tests/end_to_end/openai_clients_test.py build/cpu
"""
import json
import pathlib
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import grpc

from observed_service import (Service, Stub, free_port, make_api, root, temporary_folder, wait_for)

here = pathlib.Path(__file__).resolve().parent


def clients_python(build):
    """The interpreter that has the pinned clients; quick where it is there already."""
    folder = build / "openai_clients"
    wanted = (here / "openai_clients.txt").read_text()
    installed = folder / "installed.txt"
    if not installed.exists() or installed.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check",
                        "--no-compile", "-r", here / "openai_clients.txt"], check=True)
        installed.write_text(wanted)
    return folder / "bin/python"


def make_key(binary, file, tenant):
    done = subprocess.run([binary, "key", "add", file, "--tenant", tenant], check=True,
                          capture_output=True, text=True)
    return done.stdout.strip()


TENANTS = {"slow": {"requests_per_minute": 1, "classes": ["standard"]},
           "poor": {"budget": {"usd": 0.000000001, "per": "day"}}}


def over_http(port, key):
    """The status of a small request."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {key}"})
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(request, timeout=30).status
    except urllib.error.HTTPError as error:
        return error.code


def over_grpc(api, service, key):
    try:
        Stub(api, service).ask(metadata=(("authorization", f"Bearer {key}"),), max_tokens=1)
        return grpc.StatusCode.OK
    except grpc.RpcError as error:
        return error.code()


def reads_again(api, service, port, binary, keys, tenants):
    """Keys that come and go, and a tenant that may less: from the signal on, over both doors."""
    def at_both_doors(key):
        return over_http(port, key), over_grpc(api, service, key)

    def becomes(key, http, code):
        service.process.send_signal(signal.SIGHUP)
        wait_for(f"{http} and {code}", lambda: at_both_doors(key) == (http, code), 30)

    late = make_key(binary, keys, "late")
    unknown = (401, grpc.StatusCode.UNAUTHENTICATED)
    assert at_both_doors(late) == unknown, "before the signal"
    becomes(late, 200, grpc.StatusCode.OK)
    tenants.write_text("{")
    service.process.send_signal(signal.SIGHUP)  # a file that cannot be read is passed over
    assert at_both_doors(late) == (200, grpc.StatusCode.OK)
    granted = {**TENANTS, "late": {"requests_per_minute": 1}}
    tenants.write_text(json.dumps({"tenants": granted}))
    becomes(late, 429, grpc.StatusCode.RESOURCE_EXHAUSTED)
    subprocess.run([binary, "key", "remove", keys, late.removeprefix("tuppence-")[:8]], check=True,
                   capture_output=True)
    becomes(late, *unknown)


def run_clients(binary, python, folder, api, *flags):
    keys, tenants = folder / "keys.json", folder / "tenants.json"
    shown = [make_key(binary, keys, tenant) for tenant in ("shop", "slow", "poor")]
    tenants.write_text(json.dumps({"tenants": TENANTS}))
    port = free_port()
    service = Service(binary, folder, "service", root / "deploy/demo_model/checkpoint",
                      "--http-port", str(port), "--keys", keys, "--tenants", tenants,
                      "--price-per-hour", "0.526", "--model-alias", "gpt-4o-mini",
                      "--files-dir", str(folder / "files"), "--usage-store", folder / "usage.db",
                      *flags)
    try:
        service.wait_ready()
        reads_again(api, service, port, binary, keys, tenants)
        subprocess.run([python, here / "openai_clients.py", f"http://127.0.0.1:{port}/v1", *shown,
                        str(service.process.pid)], check=True, timeout=300)
        assert service.process.wait(60) == 0, "it was told to drain"
        lines = service.log_lines()
        assert {line["tenant"] for line in lines if line["outcome"] == "OK"} == {"shop", "slow", "late"}
        # No file holds a key.
        for file in folder.iterdir():
            if file.is_file():
                assert shown[0].encode() not in file.read_bytes(), file
    finally:
        service.process.kill()
        service.process.wait()


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    binary = build / "service/tuppence"
    python = clients_python(build)
    with temporary_folder() as folder:
        folder = pathlib.Path(folder)
        api = make_api(str(folder))
        for name, flags in (("plain", ()), ("strict", ("--strict",))):
            (folder / name).mkdir()
            run_clients(binary, python, folder / name, api, *flags)
            print(f"  {name}: passed", flush=True)
    print("openai_clients_test: passed")


if __name__ == "__main__":
    main()
