"""The loop of OpenVINO GenAI's continuous batching, in a process and a Python of its own.

    PYTHON openvino_genai_worker.py MODEL THREADS KV_TOKENS CALLERS_MAX

Says {"ready": version} on standard output, then answers each line of requests with a line of answers.
"""
import json
import sys
import time

import numpy
import openvino
import openvino_genai

KV_TOKEN_BYTES = 32 * 2 * 32 * (96 + 8)  # u8 with a scale and a zero point


def make_pipeline(model, threads, kv_tokens, callers_max):
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = -(-int(kv_tokens * 1.1) * KV_TOKEN_BYTES // (1 << 30))  # whole GiB
    scheduler.max_num_seqs = callers_max
    scheduler.max_num_batched_tokens = 512
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = False
    return openvino_genai.ContinuousBatchingPipeline(
        model, scheduler, "CPU",
        {"INFERENCE_NUM_THREADS": threads, "KV_CACHE_PRECISION": "u8", "PERFORMANCE_HINT": "LATENCY"})


def settings(request):
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = request["output"]
    config.min_new_tokens = request["output"]
    config.ignore_eos = True
    config.do_sample = False
    return config


def run(pipeline, requests, first_id):
    """Steps until all are answered; a handle gives what its request has gained since it was asked last."""
    waiting = sorted(enumerate(requests), key=lambda pair: pair[1]["at"])
    answers = [{"submitted": 0.0, "tokens": []} for _ in requests]
    handles = {}
    begin = time.monotonic()
    while waiting or handles:
        now = time.monotonic() - begin
        while waiting and waiting[0][1]["at"] <= now:
            index, request = waiting.pop(0)
            answers[index]["submitted"] = time.monotonic()
            ids = openvino.Tensor(numpy.array([request["prompt"]], dtype=numpy.int64))
            handles[index] = pipeline.add_request(first_id + index, ids, settings(request))
        if not pipeline.has_non_finished_requests():
            time.sleep(0.001)
            continue
        pipeline.step()
        now = time.monotonic()
        for index, handle in list(handles.items()):
            if handle.can_read():
                for output in handle.read().values():
                    answers[index]["tokens"] += [now] * len(output.generated_ids)
            if len(answers[index]["tokens"]) >= requests[index]["output"]:
                del handles[index]
    return answers


def main():
    model, threads, kv_tokens, callers_max = sys.argv[1], *map(int, sys.argv[2:])
    pipeline = make_pipeline(model, threads, kv_tokens, callers_max)
    print(json.dumps({"ready": openvino_genai.__version__}), flush=True)
    first_id = 0
    for line in sys.stdin:
        requests = json.loads(line)
        print(json.dumps(run(pipeline, requests, first_id)), flush=True)
        first_id += len(requests)


if __name__ == "__main__":
    main()
