"""Tuppence over gRPC, as its callers use it."""
import pathlib
import subprocess
import sys
import tempfile

import grpc

from engine import ANSWER_SECONDS_MAX, ServerEngine, free_port

ROOT = pathlib.Path(__file__).resolve().parents[2]


def load_api():
    """The generated module of the project's proto."""
    folder = tempfile.mkdtemp(prefix="tuppence-proto-")
    subprocess.run(["protoc", f"-I{ROOT}/proto", f"--python_out={folder}", "tuppence/v1/tuppence.proto"], check=True)
    sys.path.append(folder)
    from tuppence.v1 import tuppence_pb2
    return tuppence_pb2


class Tuppence(ServerEngine):
    name = "Tuppence"
    weights_by_bits = {8: "int8, groups of 128, f16 scales", 4: "int4, groups of 32, f16 scales; lm_head int8"}

    def __init__(self, options, bits, kv_tokens):
        self.api = load_api()
        binary = options.tuppence
        self.version = subprocess.run([binary, "version"], capture_output=True, text=True).stdout.strip()
        self.weights = self.weights_by_bits[bits]
        self.port, admin_port = free_port(), free_port()
        self.ready_url = f"http://127.0.0.1:{admin_port}/readyz"
        # A block of keys and values is allotted whole: a little more than the tokens need.
        kv_bytes = int(kv_tokens * 1.1) * 32 * 2 * 32 * (96 + 2)
        flags = ["--weights", f"int{bits}", "--kv", "int8", "--threads", options.threads, "--kv-memory", kv_bytes,
                 "--prefix-cache", "off"]
        self.settings = " ".join(map(str, flags))
        self.command = [str(part) for part in [binary, "serve", "--model", options.checkpoint, "--port", self.port,
                                               "--admin-port", admin_port, "--log-level", "error", *flags]]

    def start(self):
        super().start()
        channel = grpc.insecure_channel(f"127.0.0.1:{self.port}", options=[
            ("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)])
        self.generate = channel.unary_stream("/tuppence.v1.Inference/Generate",
                                             self.api.GenerateRequest.SerializeToString,
                                             self.api.GenerateResponse.FromString)

    def stream(self, request):
        call = self.api.GenerateRequest(
            token_ids=self.api.TokenIds(ids=request.prompt),
            sampling=self.api.SamplingParams(temperature=0, max_tokens=request.output, ignore_eos=True),
            output=self.api.OutputOptions(no_text=True))
        for message in self.generate(call, timeout=ANSWER_SECONDS_MAX):
            yield sum(len(choice.token_ids) for choice in message.choices)
