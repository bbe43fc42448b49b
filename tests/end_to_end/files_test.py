"""Files, batches and idempotency keys over HTTP against a running service that is killed (kill -9) at
random moments and started again. Afterwards each line of a batch is in its results once, each answer
is in the books once and costs there what the line says, and the answers are those of an undisturbed
run; a key that was answered before a kill gives the same answer after it, and the books add up.

    python3 tests/end_to_end/files_test.py build/cpu [KILLS=8] [SEED]
"""
import contextlib
import http.client
import json
import pathlib
import resource
import subprocess
import sys
import time

from observed_service import Service, free_port, kills_asked_for, root, rows_of, temporary_folder, wait_for

LINES = 400
BOUNDARY = "a-boundary-of-this-test"


class Door:
    """Calls over HTTP, each on a connection of its own."""

    def __init__(self, port, tenant="shop"):
        self.port, self.tenant = port, tenant

    def call(self, verb, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        fields = {"X-Tenant": self.tenant, **{n.replace("_", "-"): v for n, v in headers.items()}}
        if body is not None and "Content-Type" not in fields:
            fields["Content-Type"] = "application/json"
            body = json.dumps(body)
        try:
            connection.request(verb, path, body, fields,
                               encode_chunked="Transfer-Encoding" in fields)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def get(self, path):
        status, _, body = self.call("GET", path)
        assert status == 200, (path, status, body)
        return json.loads(body)

    def upload(self, pieces):
        """`pieces`: the file's bytes, in pieces. Chunked, as a client does that does not know the length."""
        def form():
            yield (f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
                   f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"'
                   '\r\n\r\n').encode()
            yield from pieces
            yield f"\r\n--{BOUNDARY}--\r\n".encode()
        status, _, body = self.call("POST", "/v1/files", form(), Content_Type="multipart/form-data; "
                                    f"boundary={BOUNDARY}", Transfer_Encoding="chunked")
        return status, json.loads(body)

    def create(self, file_id):
        status, _, body = self.call("POST", "/v1/batches", {
            "input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"})
        assert status == 200, body
        return json.loads(body)["id"]

    def wait_for_batch(self, batch_id, seconds=120):
        def ended():
            batch = self.get(f"/v1/batches/{batch_id}")
            return batch if batch["status"] in ("completed", "failed", "expired", "cancelled") else None
        return wait_for(f"{batch_id} ends", ended, seconds)

    def results(self, file_id):
        if file_id is None:
            return {}
        status, _, body = self.call("GET", f"/v1/files/{file_id}/content")
        assert status == 200 and body.endswith(b"\n")
        lines = [json.loads(line) for line in body.splitlines()]
        by_id = {line["custom_id"]: line for line in lines}
        assert len(by_id) == len(lines), "a line is there twice"
        return by_id


def question(number, **fields):
    return {"custom_id": f"q{number}", "method": "POST", "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": f"Where is my order {48000 + number}?"}],
                     "max_tokens": 40, "ignore_eos": True, **fields}}


def batch_input():
    # Without a seed, but for every third: what is asked again must be answered with the one drawn.
    lines = [json.dumps(question(n, **({"seed": n} if n % 3 == 0 else {}))) for n in range(LINES)]
    lines[7] = '{"custom_id": "q7", "method": '
    lines[11] = json.dumps(question(11, max_tokens=10**6))
    return "\n".join(lines).encode(), {None, "q11"}


def text_of(line):
    return line["response"]["body"]["choices"][0]["message"]["content"]


def restart(service, while_dead=lambda: None):
    service.kill()
    while_dead()
    service.start()
    service.wait_ready()


def tear(folder, batch_id, bytes_torn):
    """Takes the end off a batch's results, as a machine that dies does; the whole lines that this touched."""
    (record,), = rows_of(folder / "files.db", "SELECT record FROM batches WHERE id = ?", batch_id)
    path = folder / json.loads(record)["output_file_id"]
    content = path.read_bytes()
    whole = content[:content.rfind(b"\n") + 1]
    left = max(0, len(whole) - bytes_torn)
    path.write_bytes(whole[:left])
    begin = whole.rfind(b"\n", 0, left) + 1
    return [json.loads(line) for line in whole[begin:].splitlines()]


def answered_batch(service, door, folder, draw, kills):
    content, refused = batch_input()
    status, file = door.upload([content[:1000], content[1000:]])
    assert status == 200 and file["bytes"] == len(content), file
    batch_id, torn = door.create(file["id"]), []
    for kill in range(kills):  # spread over the job, each within some lines of a mark
        mark = LINES * (kill + 1) // (kills + 2)
        wait_for(f"{mark} lines", lambda: done_of(door, batch_id) >= mark, 60, every=0.002)
        time.sleep(draw.uniform(0, 0.03))
        restart(service, lambda: torn.extend(tear(folder / "files", batch_id, draw.randint(1, 3000))))
    batch = door.wait_for_batch(batch_id)
    assert batch["status"] == "completed", batch
    assert batch["request_counts"] == {"total": LINES, "completed": LINES - len(refused),
                                       "failed": len(refused)}, batch["request_counts"]
    answers = door.results(batch["output_file_id"])
    assert set(door.results(batch["error_file_id"])) == refused
    assert set(answers) == {f"q{n}" for n in range(LINES)} - {"q7", "q11"}
    replays = check_books(folder / "usage.db", batch_id, answers)
    # What was torn off is made again as it was: the same answer, request and cost.
    assert replays >= len({line["custom_id"] for line in torn}) >= bool(kills)
    for line in torn:
        line["response"]["body"].pop("created")
        found = json.loads(json.dumps(answers[line["custom_id"]]))
        found["response"]["body"].pop("created")
        assert found == line, (found, line)
    assert batch["usage"]["cost_nanousd"] == sum(
        line["response"]["body"]["usage"]["cost_nanousd"] for line in answers.values())
    return batch, answers, replays


def check_books(store, batch_id, answers):
    """Each line's request is in the books once as an answer of its own, at the line's cost."""
    rows = rows_of(
        store, "SELECT request_id, caller_id, cost_nanousd, replay_of, written_off FROM requests "
        "WHERE code = 0 AND caller_id LIKE ?", batch_id.replace("batch_", "batch-") + "-%")
    own = {row[0]: row for row in rows if row[3] is None}
    assert len({row[1] for row in own.values()}) == len(own), "a line was billed twice"
    for line in answers.values():
        row = own.pop(line["response"]["request_id"])
        assert row[1] == line["id"].replace("batch_req_", "batch-").replace("_", "-"), (row, line["id"])
        assert row[2] == line["response"]["body"]["usage"]["cost_nanousd"] > 0, (row, line["id"])
    assert not own, f"in the books and in no result: {own}"
    replays = [row for row in rows if row[3] is not None]
    assert all(row[2] == 0 and row[4] == 1 for row in replays), replays
    return len(replays)


def keys_outlive_a_kill(service, door, store):
    ask = {"messages": [{"role": "user", "content": "Where is my order 48213?"}], "max_tokens": 20,
           "temperature": 1.3, "ignore_eos": True}
    status, headers, first = door.call("POST", "/v1/chat/completions", ask, Idempotency_Key="order-1")
    assert status == 200 and "idempotent-replayed" not in headers
    first = json.loads(first)
    status, headers, again = door.call("POST", "/v1/chat/completions", ask, Idempotency_Key="order-1")
    assert status == 200 and headers["idempotent-replayed"] == "true"
    again = json.loads(again)
    restart(service)
    status, headers, after = door.call("POST", "/v1/chat/completions", ask, Idempotency_Key="order-1")
    assert status == 200 and headers["idempotent-replayed"] == "true", after
    after = json.loads(after)
    for replay in (again, after):
        assert replay["choices"] == first["choices"] and replay["id"] == first["id"]
        assert replay["usage"]["cost_nanousd"] == 0
        assert "chatcmpl-" + replay["usage"]["cost_details"]["replay_of"] == first["id"]
    assert after["usage"]["cost_details"]["machine_ns"] > 0, "it was made again"
    assert again["usage"]["cost_details"]["machine_ns"] == 0, "it was not"
    status, _, body = door.call("POST", "/v1/chat/completions", {**ask, "max_tokens": 21},
                                Idempotency_Key="order-1")
    assert status == 409 and b"another request" in body, body
    _, _, other = Door(door.port, "crawl").call("POST", "/v1/chat/completions", ask,
                                                Idempotency_Key="order-1")
    assert json.loads(other)["id"] != first["id"], "another tenant's key is another"
    for path in pathlib.Path(store).parent.glob(pathlib.Path(store).name + "*"):
        assert first["choices"][0]["message"]["content"].encode() not in path.read_bytes(), path


def large_upload(service, door):
    """A file of 150 MB with one line of 140 MB: accepted, the long line refused by itself; memory is bounded."""
    def pieces():
        yield (json.dumps(question(1)) + "\n" + json.dumps({**question(2), "pad": ""})[:-2]).encode()
        for _ in range(140):
            yield b"x" * 2**20
        yield ('"}\n' + "\n".join(json.dumps(question(n)) for n in range(3, 20))).encode()
    before = memory_kib(service)
    status, file = door.upload(pieces())
    assert status == 200 and file["bytes"] > 140 * 2**20, file
    batch = door.wait_for_batch(door.create(file["id"]))
    assert batch["request_counts"] == {"total": 19, "completed": 18, "failed": 1}, batch
    error = door.results(batch["error_file_id"])[None]
    assert error["response"]["status_code"] == 400 and "bytes" in error["error"]["message"]
    # And one of more than 200 MB: refused on its way; the caller may find the connection closed.
    def too_long():
        line = json.dumps(question(1)).encode()
        yield line
        for _ in range(201):
            yield b" " * 2**20
    with contextlib.suppress(OSError):
        status, answer = door.upload(too_long())
        assert status in (400, 413), answer
    peak = memory_kib(service, "VmHWM")
    assert peak - before < 80 * 1024, f"{peak - before} KiB more for 140 MB"
    status, _, _ = door.call("DELETE", f"/v1/files/{file['id']}")
    assert status == 200
    return peak - before


def memory_kib(service, which="VmRSS"):
    status = pathlib.Path(f"/proc/{service.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(which)))


def budget_ends(door):
    """F8: the tenant's money ends in the middle of a job; the job ends all the same."""
    lines = "\n".join(json.dumps(question(n, max_tokens=200)) for n in range(200)).encode()
    status, file = door.upload([lines])
    assert status == 200, file
    batch = door.wait_for_batch(door.create(file["id"]))
    counts = batch["request_counts"]
    assert batch["status"] == "completed" and counts["completed"] + counts["failed"] == 200, batch
    assert counts["completed"] > 0 and counts["failed"] > 0, counts
    for line in door.results(batch["error_file_id"]).values():
        assert line["response"]["status_code"] == 429 and line["error"]["code"] == "insufficient_quota"
    return counts


def full_disk(service, door):
    """F7: no file may grow further for a while, results and books alike: the job pauses with whole
    lines, and goes on."""
    lines = 400
    status, file = door.upload(["\n".join(json.dumps(question(n, max_tokens=60))
                                          for n in range(lines)).encode()])
    assert status == 200, file
    batch_id = door.create(file["id"])
    wait_for("some answers", lambda: done_of(door, batch_id) > 10, 30)
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    time.sleep(1)
    paused = done_of(door, batch_id)
    time.sleep(1)
    assert paused == done_of(door, batch_id) < lines, (paused, done_of(door, batch_id))
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE,
                     (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    batch = door.wait_for_batch(batch_id)
    assert batch["request_counts"]["completed"] == lines, batch
    assert len(door.results(batch["output_file_id"])) == lines


def done_of(door, batch_id):
    return door.get(f"/v1/batches/{batch_id}")["request_counts"]["completed"]


def main():
    binary = f"{sys.argv[1]}/service/tuppence"
    kills, draw = kills_asked_for(8)
    with temporary_folder() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        store, http_port = folder / "usage.db", free_port()
        (folder / "tenants.json").write_text(json.dumps(
            {"tenants": {"poor": {"budget": {"usd": 0.0004, "per": "month"}}}, "others": {}}))
        service = Service(binary, folder, "files", str(root / "deploy/demo_model/checkpoint"),
                          "--price-per-hour", "0.526", "--kv-memory", "32M", "--threads", "1",
                          "--usage-store", str(store), "--http-port", str(http_port),
                          "--tenant-header", "x-tenant", "--tenants", str(folder / "tenants.json"),
                          "--files-dir", str(folder / "files"))
        stack.callback(lambda: service.process.kill())
        service.wait_ready()
        door = Door(http_port)
        batch, answers, replays = answered_batch(service, door, folder, draw, kills)
        print(f"{kills} kills: {LINES} lines once in the results, {len(answers)} answers once in the "
              f"books, {replays} made again at no price", flush=True)
        _, calm, none = answered_batch(service, door, folder, draw, 0)
        assert none == 0
        for number in range(0, LINES, 3):
            assert text_of(calm[f"q{number}"]) == text_of(answers[f"q{number}"]), number
        keys_outlive_a_kill(service, door, store)
        print("a key that was answered before a kill gives the same answer after it", flush=True)
        print(f"budget's end: {budget_ends(Door(http_port, 'poor'))}", flush=True)
        full_disk(service, door)
        print(f"140 MB in a line: {large_upload(service, door)} KiB more", flush=True)
        service.stop()
        done = subprocess.run([binary, "ledger", "verify", str(store)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        replayed = subprocess.run([sys.executable, str(root / "tests/replay_books.py"), str(store)],
                                  capture_output=True, text=True)
        assert replayed.returncode == 0, replayed.stdout + replayed.stderr
        print(done.stdout.strip().splitlines()[-1])
        print(f"batch {batch['id']}: {batch['usage']}")


if __name__ == "__main__":
    main()
