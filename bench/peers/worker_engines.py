"""Engines that are Python packages: each in a process and a Python of its own, which this one hands lines of requests."""
import dataclasses
import json
import pathlib
import subprocess

from engine import Answer, CannotError, Engine

HERE = pathlib.Path(__file__).resolve().parent


class WorkerEngine(Engine):
    option: str  # what its options begin with: OPTION_python, OPTION_int4, OPTION_int8
    worker: str  # the program, in this folder
    weights_by_bits: dict[int, str]
    version = ""  # until it has told

    def __init__(self, options, bits, kv_tokens):
        self.python, model = (getattr(options, f"{self.option}_{end}") for end in ("python", f"int{bits}"))
        if not self.python or not model:
            raise LookupError(f"not named: --{self.option}-python and --{self.option}-int8 or --{self.option}-int4")
        self.weights = self.weights_by_bits[bits]
        self.arguments = [model, options.threads, kv_tokens, options.callers_max]

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
    option = "openvino"
    worker = "openvino_genai_worker.py"
    weights_by_bits = {8: "int8, one scale an output channel", 4: "int4 symmetric, groups of 32, all layers"}
    settings = "max_num_batched_tokens 512, dynamic_split_fuse, u8 keys and values, prefix caching off"


class OnnxRuntimeGenAi(WorkerEngine):
    name = "onnxruntime-genai"
    option = "onnxruntime"
    worker = "onnxruntime_genai_worker.py"
    weights_by_bits = {8: "int8, blocks of 32", 4: "int4, blocks of 32, accuracy level 4 (int8 activations)"}
    settings = "Generator: static batches; keys and values in f32"
