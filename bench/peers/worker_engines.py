"""Engines that are Python packages: each in a process and a Python of its own, which this one hands lines of requests."""
import dataclasses
import json
import pathlib
import subprocess

from engine import Answer, CannotError, Engine

HERE = pathlib.Path(__file__).resolve().parent


class WorkerEngine(Engine):
    worker: str  # the program, in this folder
    arguments: list
    python: str

    def start(self):
        self.process = subprocess.Popen([self.python, HERE / self.worker, *map(str, self.arguments)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.version = self.read()["ready"]

    def read(self):
        for line in self.process.stdout:
            if line.startswith(("{", "[")):  # packages print what they like
                return json.loads(line)
        raise RuntimeError(f"{self.name} ended with {self.process.wait()}")

    def run(self, requests):
        self.process.stdin.write(json.dumps([dataclasses.asdict(request) for request in requests]) + "\n")
        self.process.stdin.flush()
        answers = self.read()
        if isinstance(answers, dict):
            raise CannotError(answers["refused"])
        return [Answer(**answer) for answer in answers]

    def pid(self):
        return self.process.pid

    def stop(self):
        self.process.kill()
        self.process.wait()


class OpenVinoGenAi(WorkerEngine):
    name = "OpenVINO GenAI"
    worker = "openvino_genai_worker.py"
    version = ""
    weights_by_bits = {8: "int8, one scale an output channel", 4: "int4 symmetric, groups of 32, all layers"}
    settings = "max_num_batched_tokens 512, dynamic_split_fuse, u8 keys and values, prefix caching off"

    def __init__(self, options, bits, kv_tokens):
        model = {8: options.openvino_int8, 4: options.openvino_int4}[bits]
        if not options.openvino_python or not model:
            raise LookupError("not named: --openvino-python and --openvino-int8 or --openvino-int4")
        self.python = options.openvino_python
        self.weights = self.weights_by_bits[bits]
        self.arguments = [model, options.threads, kv_tokens, options.callers_max]


class OnnxRuntimeGenAi(WorkerEngine):
    name = "onnxruntime-genai"
    worker = "onnxruntime_genai_worker.py"
    version = ""
    weights_by_bits = {8: "int8, blocks of 32", 4: "int4, blocks of 32, accuracy level 4 (int8 activations)"}
    settings = "Generator: static batches; keys and values in f32"

    def __init__(self, options, bits, kv_tokens):
        model = {8: options.onnxruntime_int8, 4: options.onnxruntime_int4}[bits]
        if not options.onnxruntime_python or not model:
            raise LookupError("not named: --onnxruntime-python and --onnxruntime-int8 or --onnxruntime-int4")
        self.python = options.onnxruntime_python
        self.weights = self.weights_by_bits[bits]
        self.arguments = [model, options.threads]
