#!/usr/bin/env python3
"""What a service under more load than it can bear does to its callers: prints a report for bench/results/.

    python3 bench/overload_bench.py build/cpu [--model DIR] [--seconds 20] [--rounds 3]

1. Ten times the requests a second that it can serve: how soon the refused ones hear of it, what becomes of
   the throughput, and of the memory.
2. A short request behind the longest prompts, without and beside a stream: when it starts, in steps.
3. Streams beside the longest prompts: the time between two of their tokens, against --itl-target-ms.
4. Readers that stop reading while others read: what they cost the others.
"""
import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import grpc

from measured_service import DEMO, MIB, PORT, ROOT, MemoryWatch, Service, load, metric

LONG_PROMPTS = ["--sequences-max", "16", "--kv-memory", "1G", "--prefix-cache", "off"]  # none is there already


class Speed:
    """Tokens a second while a load is at its full: from two seconds after its start, for so long."""

    def __init__(self, seconds):
        self.thread = threading.Thread(target=self.measure, args=(seconds,))

    def measure(self, seconds):
        time.sleep(2)
        began, before = time.monotonic(), metric("tuppence_completion_tokens_total")
        time.sleep(seconds)
        tokens = metric("tuppence_completion_tokens_total") - before
        self.tokens_per_second = tokens / (time.monotonic() - began)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.thread.join()


def overload(options):
    lengths = ["--prompt", "200-400", "--output", "150-250"]
    print(f"## Ten times what it can serve, over {options.door}, {options.rounds} rounds\n\nAnswers of 150 to 250 tokens "
          "after 200 to 400; 16 run at a time and 32 wait. At its peak there are 48 callers who ask again once they are "
          "answered, before the overload and after it; tokens a second are those while all of them are there.\n")
    print("| round | peak, tokens/s | asked, requests/s | refused | refusal p50, ms | p99, ms | tokens/s | of peak | "
          "memory after a quarter, MiB | at most after |\n" + "|---:" * 10 + "|")
    goodput, p99 = [], []

    def ask(*flags):
        return load(options.build, *flags, *lengths, door=options.door, refusals=True)

    with Service(options.build, options.model, "--sequences-max", "16", "--queue-requests-max", "48",
                 http=True) as service:
        served = ask("--concurrency", "48", "--requests", "100")["requests_per_second"]
        requests = str(int(1.2 * served * (options.seconds + 4)))

        def peak():
            with Speed(options.seconds) as speed:
                ask("--concurrency", "48", "--requests", requests)
            return speed.tokens_per_second

        before = peak()
        rate = 10 * before / 200  # an answer's tokens in the mean
        for one in range(options.rounds):
            with MemoryWatch(service) as memory, Speed(options.seconds) as speed:
                over = ask("--rate", str(rate), "--seconds", str(options.seconds + 3))
            after = peak()
            quarter = memory.samples[len(memory.samples) // 4]
            rest = max(memory.samples[len(memory.samples) // 4:])
            most = (before + after) / 2
            goodput.append(speed.tokens_per_second / most)
            p99.append(over["refusal_seconds"]["p99"])
            print(f"| {one + 1} | {most:.0f} | {rate:.0f} | {over['refusal_seconds']['count']} | "
                  f"{1e3 * over['refusal_seconds']['p50']:.2f} | {1e3 * p99[-1]:.2f} | {speed.tokens_per_second:.0f} | "
                  f"{100 * goodput[-1]:.1f} % | {quarter / MIB:.1f} | {rest / MIB:.1f} |", flush=True)
            before = after
    print(f"\nRefusals' p99, median of the rounds: {1e3 * statistics.median(p99):.2f} ms (goal 10). Goodput: "
          f"{100 * statistics.median(goodput):.1f} % of peak (goal 95).\n", flush=True)


class Caller:
    """Single calls, with prompts of token ids."""

    def __init__(self, folder):
        subprocess.run(["protoc", f"-I{ROOT}/proto", f"--python_out={folder}", "tuppence/v1/tuppence.proto"],
                       check=True)
        sys.path.append(folder)
        from tuppence.v1 import tuppence_pb2
        self.api = tuppence_pb2

    def request(self, prompt_tokens, output_tokens, first_id=300, top_logprobs=None):
        request = self.api.GenerateRequest()
        request.token_ids.ids.extend(first_id + i % 500 for i in range(prompt_tokens))
        request.sampling.max_tokens = output_tokens
        request.sampling.temperature = 0
        request.sampling.ignore_eos = True
        request.output.no_text = True
        if top_logprobs is not None:
            request.output.logprobs = True
            request.output.top_logprobs = top_logprobs
        return request

    def start(self, request):
        """The call, on a connection of its own that takes 64 KiB ahead: whoever stops reading is felt soon, and
        holds up nobody else."""
        channel = grpc.insecure_channel(f"127.0.0.1:{PORT}", options=[
            ("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1),
            ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16)])
        generate = channel.unary_stream("/tuppence.v1.Inference/Generate",
                                        self.api.GenerateRequest.SerializeToString,
                                        self.api.GenerateResponse.FromString)
        return channel, generate(request)

    @contextlib.contextmanager
    def reading(self, request):
        """The call is under way meanwhile, asked anew whenever it has ended, and all of it is read."""
        ended = threading.Event()

        def read():
            while not ended.is_set():
                channel, call = self.start(request)
                with channel:
                    for _ in call:
                        if ended.is_set():
                            call.cancel()
                            return

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield
        finally:
            ended.set()
            reader.join()

    def usage(self, request):
        channel, call = self.start(request)
        with channel:
            return [message for message in call][-1].usage


def wait_behind(options, caller, prompts, target_ms):
    """How long short requests wait for their first step behind so many of the longest prompts."""
    short = caller.request(16, 4)
    waits, prefills, longs = [], [], []
    for one in range(options.trials):
        behind = [caller.start(caller.request(options.longest, 2, first_id=300 + 7 * i)) for i in range(prompts)]
        time.sleep(0.02 + 0.01 * (one % 10))  # at another point of the prompts each time
        usage = caller.usage(short)
        waits.append(usage.queue_seconds)
        prefills.append(usage.prefill_seconds)
        for channel, call in behind:
            with channel:
                longs.append([message for message in call][-1].usage)
    step_s = metric("tuppence_step_longest_seconds")
    long_s = statistics.median(usage.prefill_seconds for usage in longs)
    print(f"| {prompts} | {target_ms or 'none'} | {1e3 * long_s:.0f} | {1e3 * statistics.median(waits):.1f} | "
          f"{1e3 * max(waits):.1f} | {1e3 * step_s:.1f} | {max(waits) / step_s:.2f} | {1e3 * statistics.median(prefills):.1f} |", flush=True)


def behind_the_longest(options, caller):
    print(f"## A short request behind the longest prompts\n\nPrompts of {options.longest} tokens are under way or wait "
          f"when one of 16 tokens comes, of the same tenant; {options.trials} times each. Where a target is given a stream "
          "is under way too, and the target leaves a step less time than a block of a prompt takes.\n\n"
          "| long prompts | itl target, ms | each is read in, ms | wait for the first step, median, ms | at most, ms | "
          "longest step, ms | wait in steps (goal 2) | its own prefill, ms |\n" + "|---:" * 8 + "|")
    for prompts in (1, 4):
        with Service(options.build, options.model, *LONG_PROMPTS):
            wait_behind(options, caller, prompts, None)
        with Service(options.build, options.model, *LONG_PROMPTS, "--itl-target-ms", "1"):
            with caller.reading(caller.request(20, options.longest - 40)):
                wait_behind(options, caller, prompts, 1)
    print(flush=True)


def beside_the_longest(options, caller):
    print(f"## Streams beside the longest prompts\n\nFour callers with answers of 100 to 150 tokens after 16 to 32, "
          f"while one prompt of {options.longest} tokens after another is read.\n\n"
          "| itl target, ms | longest step, ms | between two tokens, p50, ms | p90 | p99 | prompts read, tokens/s |\n"
          + "|---:" * 6 + "|")
    for target_ms in (0, 10, 20, 50, 100):
        with Service(options.build, options.model, *LONG_PROMPTS, "--itl-target-ms", str(target_ms)):
            with caller.reading(caller.request(options.longest, 1)):
                before = metric("tuppence_request_prompt_tokens_sum")
                result = load(options.build, "--concurrency", "4", "--requests", "40", "--prompt", "16-32", "--output",
                              "100-150")
                read = metric("tuppence_request_prompt_tokens_sum") - before
            itl = result["inter_token_seconds"]
            print(f"| {target_ms or 'none'} | {1e3 * metric('tuppence_step_longest_seconds'):.1f} | {1e3 * itl['p50']:.1f} | "
                  f"{1e3 * itl['p90']:.1f} | {1e3 * itl['p99']:.1f} | {read / result['wall_seconds']:.0f} |", flush=True)
    print(flush=True)


def wait_until_parked():
    """Nobody else is there, and no token comes any more."""
    before = -1
    while (tokens := metric("tuppence_completion_tokens_total")) != before or tokens == 0:
        before = tokens
        time.sleep(1)


def stalled_readers(options, caller):
    lengths = ["--concurrency", "100", "--requests", str(options.stalled_requests), "--warmup", "100", "--prompt", "60-100",
               "--output", "80-120"]
    speeds = {"without": [], "with": []}
    for one in range(options.rounds):
        for kind in sorted(speeds, reverse=one % 2 == 0):
            with Service(options.build, options.model, "--sequences-max", "208", "--kv-memory", "2G", "--stall-seconds", "600"):
                stalled = []
                if kind == "with":
                    for i in range(100):
                        request = caller.request(20, options.longest - 40, first_id=300 + i, top_logprobs=20)
                        stalled.append(caller.start(request))
                        next(stalled[-1][1])
                    wait_until_parked()
                    assert metric("tuppence_requests_running") == 100, "some stalled readers' answers have ended"
                speeds[kind].append(load(options.build, *lengths)["output_tokens_per_second"])
                for channel, call in stalled:
                    call.cancel()
                    channel.close()
    print(f"## 100 stalled readers among 200, {options.rounds} rounds in turns\n\n100 callers who read, alone and "
          "beside 100 whose answers are parked with their blocks.\n")
    for kind, values in speeds.items():
        print(f"{kind:8} the stalled: tokens/s " + " ".join(f"{value:.0f}" for value in values)
              + f"; median {statistics.median(values):.0f}")
    ratio = statistics.median(speeds["with"]) / statistics.median(speeds["without"])
    print(f"They cost the others {100 * (1 - ratio):.1f} % (goal at most 5).\n", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build")
    parser.add_argument("--model", default=DEMO)
    parser.add_argument("--longest", type=int, default=2000, help="tokens: the longest prompt of the model")
    parser.add_argument("--seconds", type=float, default=15, help="of overload, and of each peak")
    parser.add_argument("--stalled-requests", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--door", choices=["grpc", "http"], default="grpc", help="for the overload")
    parser.add_argument("--only", choices=["overload", "short", "streams", "stalled"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        caller = Caller(folder)
        if options.only in (None, "overload"):
            overload(options)
        if options.only in (None, "short"):
            behind_the_longest(options, caller)
        if options.only in (None, "streams"):
            beside_the_longest(options, caller)
        if options.only in (None, "stalled"):
            stalled_readers(options, caller)


main()
