"""The loop of onnxruntime-genai's Generator, in a process and a Python of its own.

    PYTHON onnxruntime_genai_worker.py MODEL THREADS [...]

Says {"ready": version} on standard output, then answers each line of requests with a line of answers. A batch begins and
ends together: requests of one length, handed over at once; anything else is answered {"refused": why}.
"""
import json
import sys
import time

import numpy
import onnxruntime_genai


def make_model(folder, threads):
    config = onnxruntime_genai.Config(folder)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    return onnxruntime_genai.Model(config)


def run(model, requests):
    shapes = {(len(request["prompt"]), request["output"], request["at"]) for request in requests}
    if len(shapes) > 1:
        return {"refused": "its Generator's batch begins and ends together"}
    [(prompt, output, _)] = shapes
    params = onnxruntime_genai.GeneratorParams(model)
    params.set_search_options(max_length=prompt + output, min_length=prompt + output, batch_size=len(requests),
                              do_sample=False)
    begin = time.monotonic()
    generator = onnxruntime_genai.Generator(model, params)
    generator.append_tokens(numpy.array([request["prompt"] for request in requests], dtype=numpy.int32))
    moments = []
    for _ in range(output):
        generator.generate_next_token()
        moments.append(time.monotonic())
    return [{"submitted": begin, "tokens": moments} for _ in requests]


def main():
    model = make_model(sys.argv[1], int(sys.argv[2]))
    print(json.dumps({"ready": onnxruntime_genai.__version__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(model, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
