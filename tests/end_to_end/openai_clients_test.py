"""The real openai-python, LiteLLM and langchain-openai against the service, with base_url and key
changed and nothing else. Puts the clients into an environment of their own, once, starts the demo
model with keys, and runs openai_clients.py there.

    python3 tests/end_to_end/openai_clients_test.py build/cpu
"""
import json
import pathlib
import subprocess
import sys

from observed_service import Service, free_port, root, temporary_folder

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


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    binary = build / "service/tuppence"
    python = clients_python(build)
    with temporary_folder() as folder:
        folder = pathlib.Path(folder)
        keys = folder / "keys.json"
        shop, slow = make_key(binary, keys, "shop"), make_key(binary, keys, "slow")
        tenants = folder / "tenants.json"
        tenants.write_text(json.dumps({"tenants": {"slow": {"requests_per_minute": 1}}}))
        port = free_port()
        service = Service(binary, folder, "service", root / "deploy/demo_model/checkpoint",
                          "--http-port", str(port), "--keys", keys, "--tenants", tenants,
                          "--price-per-hour", "0.526", "--model-alias", "gpt-4o-mini",
                          "--files-dir", str(folder / "files"))
        try:
            service.wait_ready()
            subprocess.run([python, here / "openai_clients.py", f"http://127.0.0.1:{port}/v1",
                            shop, slow], check=True, timeout=300)
            lines = service.log_lines()
            assert {line["tenant"] for line in lines if line["outcome"] == "OK"} == {"shop", "slow"}
            # No file holds a key.
            for file in folder.iterdir():
                if file.is_file():
                    assert shop not in file.read_text(), file
        finally:
            service.stop()
    print("openai_clients_test: passed")


if __name__ == "__main__":
    main()
