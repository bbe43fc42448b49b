"""llama.cpp: its server's native streaming call, with token ids for a prompt."""
import json
import subprocess
import urllib.request

from engine import ANSWER_SECONDS_MAX, ServerEngine, free_port


class LlamaCpp(ServerEngine):
    name = "llama.cpp"
    weights_by_bits = {8: "Q8_0: int8, blocks of 32, f16 scales", 4: "Q4_0: int4, blocks of 32, f16 scales"}

    def __init__(self, options, bits, kv_tokens):
        model = {8: options.llama_q8, 4: options.llama_q4}[bits]
        if not options.llama_server or not model:
            raise LookupError("not named: --llama-server and --llama-q8 or --llama-q4")
        told = subprocess.run([options.llama_server, "--version"], capture_output=True, text=True)
        self.version = (told.stdout + told.stderr).strip().splitlines()[0]
        self.weights = self.weights_by_bits[bits]
        self.port = free_port()
        self.ready_url = f"http://127.0.0.1:{self.port}/health"
        flags = ["--threads", options.threads, "--threads-batch", options.threads, "--parallel", options.callers_max,
                 "--kv-unified", "--ctx-size", -(-kv_tokens // 256) * 256, "--batch-size", 2048, "--ubatch-size", 512,
                 "--flash-attn", "on", "--cache-type-k", "q8_0", "--cache-type-v", "q8_0", "--cache-ram", 0, "--no-warmup"]
        self.settings = " ".join(map(str, flags))
        self.command = [str(part) for part in [options.llama_server, "--model", model, "--port", self.port, *flags]]

    def stream(self, request):
        body = {"prompt": request.prompt, "n_predict": request.output, "ignore_eos": True, "stream": True,
                "temperature": 0, "cache_prompt": False, "return_tokens": True, "samplers": ["top_k"], "top_k": 1}
        call = urllib.request.Request(f"http://127.0.0.1:{self.port}/completion", json.dumps(body).encode(),
                                      {"Content-Type": "application/json"})
        come = 0
        with urllib.request.urlopen(call, timeout=ANSWER_SECONDS_MAX) as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    event = json.loads(line[6:])
                    # The last event counts all tokens: one that ended within a character had no event of its own.
                    count = event["tokens_predicted"] - come if event.get("stop") else len(event["tokens"])
                    come += count
                    yield count
