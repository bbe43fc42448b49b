"""`tuppence batch` against a running service, killed (kill -9) again and again, the command and the
service in turn, at random moments, and started again. Afterwards each line is in the output once and in the
books once, costs there what the output says, and the answers are those that an undisturbed run
gives. The service asks for keys.

    python3 tests/end_to_end/batch_test.py build/cpu [KILLS=12] [SEED]
"""
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

from observed_service import Service, kills_asked_for, root, rows_of, start_process, temporary_folder

LINES = 160


def question(number):
    return {"custom_id": f"q{number}", "method": "POST", "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": f"Where is my order {48000 + number}?"}],
                     "temperature": 0, "max_tokens": 24, "ignore_eos": True}}


def write_input(path):
    lines = [json.dumps(question(number)) for number in range(LINES)]
    lines[7] = '{"custom_id": "q7", "method": '                              # no JSON
    lines[11] = json.dumps({**question(11), "url": "/v1/embeddings"})
    lines[13] = json.dumps({**question(13), "body": {**question(13)["body"], "stream": True}})
    lines[17] = json.dumps({**question(17), "body": {**question(17)["body"], "model": "gpt-4"}})
    lines[19] = json.dumps({**question(19), "body": {**question(19)["body"], "max_tokens": 10**6}})
    lines[23] = json.dumps({**question(23), "body": {"messages": [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]}]}})
    lines[29] = json.dumps({"custom_id": "q29", "url": "/v1/completions", "expected": "x",
                            "body": {"prompt": "Where is", "max_tokens": 5, "logprobs": 2,
                                     "temperature": 0, "ignore_eos": True}})
    lines[31] = json.dumps({**question(31), "reference_answer": "It has been shipped."})
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode())  # BOM, CRLF, blank, no end
    return {7, 11, 13, 17, 19, 23}


def command(binary, service, source, target, *flags):
    return [binary, "batch", str(source), str(target), "--address", f"127.0.0.1:{service.port}",
            "--concurrency", "8", "--patience", "60", "--key", service.key, *flags]


def run_to_the_end(command_line, **environment):
    return subprocess.run(command_line, capture_output=True, text=True, timeout=120,
                          env={**os.environ, **environment})


def answers_of(path):
    text = path.read_text()
    assert text.endswith("\n")
    lines = [json.loads(line) for line in text.splitlines()]
    by_id = {line["custom_id"]: line for line in lines}
    assert len(by_id) == len(lines), "a line is in the output twice"
    return by_id


def text_of(line):
    choice = line["response"]["body"]["choices"][0]
    return choice["message"]["content"] if "message" in choice else choice["text"]


def check_answers(by_id, refused):
    assert len(by_id) == LINES
    for number in range(LINES):
        line = by_id[None if number == 7 else f"q{number}"]
        status = line["response"]["status_code"]
        if number in refused:
            assert status == (404 if number == 17 else 400) and line["error"]["message"], line
            continue
        assert status == 200 and line["error"] is None, line
        assert line["mean_logprob"] <= 0
        body = line["response"]["body"]
        assert body["usage"]["completion_tokens"] == (5 if number == 29 else 24)
        assert body["usage"]["cost_nanousd"] > 0 and body["choices"][0]["finish_reason"] == "length"
        assert (body["choices"][0]["logprobs"] is not None) == (number == 29)
    assert by_id["q29"]["exact_match"] is False and by_id["q29"]["expected"] == "x"
    assert by_id["q31"]["reference_answer"] == "It has been shipped."
    assert by_id["q31"]["answer"] == text_of(by_id["q31"])


def name_of(line):
    return line["id"].replace("_req_", "-").replace("_", "-")


def check_books(store, by_id):
    """From the output to the books, and from the books to the output."""
    rows = rows_of(store, "SELECT caller_id, request_id, cost_nanousd, code, replay_of FROM requests")
    billed = {}
    for name, request_id, cost_nanousd, code, replay_of in rows:
        if code == 0 and replay_of is None:
            assert name not in billed, f"{name} was answered and billed twice"
            billed[name] = (request_id, cost_nanousd)
        assert replay_of is None or cost_nanousd == 0, (name, cost_nanousd)
    answered = [line for line in by_id.values() if line["response"]["status_code"] == 200]
    for line in answered:
        usage = line["response"]["body"]["usage"]
        assert billed.pop(name_of(line)) == (line["response"]["request_id"], usage["cost_nanousd"])
    assert not billed, "in the books and not in the output"
    return sum(replay_of is not None for _, _, _, _, replay_of in rows)


def answered_and_not_written(service, store, line, target):
    """As a kill leaves it between the last token and the disk, and as another does when the service
    died too: the same answers again, at the first one's cost, out of memory and made anew."""
    whole = target.read_text().splitlines(keepends=True)
    before = answers_of(target)
    for restart in (False, True):
        if restart:
            service.stop()
            service.start()
            service.wait_ready()
        target.write_text("".join(whole[:-7]) + whole[-7][:100])
        assert run_to_the_end(line).returncode == 2
        after = answers_of(target)
        for custom_id, one in before.items():
            if one["response"]["status_code"] != 200:
                continue
            assert text_of(after[custom_id]) == text_of(one), custom_id
            assert after[custom_id]["response"]["request_id"] == one["response"]["request_id"]
        remade = check_books(store, after)
    assert remade > 0, "after a restart answers are made again"
    return remade


def keys_asked_for(binary, service, folder):
    """Without a key nothing is begun that a key would not go on with; TUPPENCE_KEY is one too."""
    source, target = folder / "keys.jsonl", folder / "keys.out"
    source.write_text(json.dumps(question(1)))
    line = command(binary, service, source, target)
    line = line[:line.index("--key")]
    refused = run_to_the_end(line)
    assert refused.returncode == 1 and "key" in refused.stderr, refused.stderr
    assert target.read_text() == ""
    assert run_to_the_end(line, TUPPENCE_KEY=service.key).returncode == 0
    assert answers_of(target)["q1"]["response"]["status_code"] == 200


def disturb(service, run, draw):
    """Kills the command or the service, after a while; the command is then to be started again."""
    time.sleep(draw.uniform(0.05, 0.5))
    if run.poll() is not None:
        return False
    if draw.random() < 0.3:
        service.kill()
        service.start()
        service.wait_ready()
        time.sleep(draw.uniform(0.05, 0.3))
    run.kill()
    run.wait()
    return True


def bad_inputs(binary, service, folder):
    """Section F of the bad inputs: refused before any work, naming the lines."""
    source, target = folder / "bad.jsonl", folder / "bad.out"
    good = json.dumps(question(1))
    for content, words in [
            ("", "has no lines"), ("\n \r\n", "has no lines"),
            (good + "\n" + good, "line 2 has the custom_id of line 1"),
            ('{"url": "/v1/completions", "body": {}}', "line 1 has no custom_id"),
            (json.dumps({**question(1), "custom_id": "x" * 10240}), "custom_id of 10240 bytes"),
            (json.dumps({**question(1), "custom_id": ""}), "custom_id of 0 bytes")]:
        source.write_text(content)
        done = run_to_the_end(command(binary, service, source, target))
        assert done.returncode == 1 and words in done.stderr, (content[:80], done.stderr)
        assert not target.exists(), "nothing was to be begun"
    source.write_text(good)
    (folder / "link").symlink_to(source)
    for path in (source, folder / "link", folder / ".." / folder.name / "bad.jsonl"):
        done = run_to_the_end(command(binary, service, source, path))
        assert done.returncode == 1 and "over the input" in done.stderr, done.stderr
        assert source.read_text() == good
    (folder / "strange").write_text("mine\n")
    done = run_to_the_end(command(binary, service, source, folder / "strange"))
    assert done.returncode == 1 and "no batch to go on with" in done.stderr, done.stderr
    assert (folder / "strange").read_text() == "mine\n"
    # A line of 200 MB: refused by itself, in bounded memory.
    with open(source, "w") as file:
        file.write(json.dumps({**question(1), "pad": ""})[:-2])
        for _ in range(200):
            file.write("x" * 2**20)
        file.write('"}\n' + json.dumps(question(2)))
    run = subprocess.Popen(command(binary, service, source, target), stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(run.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 2
    assert usage.ru_maxrss < 150 * 1024, f"{usage.ru_maxrss} KiB"
    by_id = answers_of(target)
    assert by_id[None]["response"]["status_code"] == 400 and "bytes" in by_id[None]["error"]["message"]
    assert by_id["q2"]["response"]["status_code"] == 200


def full_disk(binary, service, folder):
    """The output may not grow further: the job pauses with whole lines, and goes on afterwards."""
    source, target = folder / "full.jsonl", folder / "full.out"
    source.write_text("\n".join(json.dumps(question(number)) for number in range(40)))
    line = command(binary, service, source, target)
    limited = subprocess.run(["prlimit", "--fsize=8192", *line], capture_output=True, text=True,
                             restore_signals=False)
    assert limited.returncode == 1 and "goes on where it was" in limited.stderr, limited.stderr
    assert 0 < len(answers_of(target)) < 40
    assert run_to_the_end(line).returncode == 0
    assert len(answers_of(target)) == 40


def main():
    binary = f"{sys.argv[1]}/service/tuppence"
    kills, draw = kills_asked_for(12)
    with temporary_folder() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        store, keys = folder / "usage.db", folder / "keys.json"
        key = subprocess.run([binary, "key", "add", str(keys), "--tenant", "shop"], check=True,
                             capture_output=True, text=True).stdout.strip()
        model = str(root / "deploy/demo_model/checkpoint")
        service = Service(binary, folder, "batch", model, "--price-per-hour", "0.526",
                          "--kv-memory", "32M", "--threads", "1", "--usage-store", str(store),
                          "--keys", str(keys))
        service.key = key
        stack.callback(lambda: service.process.kill())
        service.wait_ready()
        source, target = folder / "in.jsonl", folder / "out.jsonl"
        refused = write_input(source)
        line = command(binary, service, source, target)
        killed = 0
        for _ in range(kills):
            run = start_process(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            killed += disturb(service, run, draw)
        done = run_to_the_end(line)
        assert done.returncode == 2, (done.returncode, done.stderr)
        assert f"answered {LINES - len(refused)}, refused {len(refused)} of {LINES} lines" in done.stdout
        by_id = answers_of(target)
        check_answers(by_id, refused)
        check_books(store, by_id)
        again = run_to_the_end(line)
        assert again.returncode == 2 and again.stdout == done.stdout, "a job that is done stays done"
        remade = answered_and_not_written(service, store, line, target)
        # The same through a model loaded here: the same answers, and a reference price.
        local = folder / "local.jsonl"
        here = run_to_the_end([binary, "batch", str(source), str(local), "--model", model,
                               "--kv-memory", "32M", "--threads", "1", "--price-per-hour", "0.526",
                               "--reference-price", "gpt-3.5-turbo"])
        assert here.returncode == 2, here.stderr
        assert re.search(r"at gpt-3.5-turbo@\S+: 0\.\d+ USD", here.stdout), here.stdout
        alone = answers_of(local)
        for custom_id, one in by_id.items():
            if one["response"]["status_code"] == 200 and custom_id != "q29":
                assert text_of(alone[custom_id]) == text_of(one), custom_id
        keys_asked_for(binary, service, folder)
        bad_inputs(binary, service, folder)
        full_disk(binary, service, folder)
        service.stop()
    print(f"{killed} kills: {LINES} lines once in the output, {LINES - len(refused)} answers once in "
          f"the books, {remade} made again at no cost")
    print(done.stdout)


if __name__ == "__main__":
    main()
