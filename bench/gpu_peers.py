#!/usr/bin/python3
"""Others' times for the same shapes, where they are installed: PyTorch's scaled-dot-product attention and transformers' generate with
weights that mean nothing. One JSON object a line; bench/gpu_report.py makes a table of it.

    gpu_peers.py
"""

import json
import time

HEADS, HEAD_DIM, CONTEXT, PROMPT, NEW_TOKENS = 32, 96, 1024, 2048, 16
BATCHES = (1, 8, 32, 128)


def tell(**row):
    print(json.dumps(row), flush=True)


def seconds_of(torch, call, seconds_min=0.3):
    call()
    torch.cuda.synchronize()
    count = 1
    while True:
        start = time.monotonic()
        for _ in range(count):
            call()
        torch.cuda.synchronize()
        took = time.monotonic() - start
        if took >= seconds_min:
            return took / count
        count *= 4


def attention(torch):
    from torch.nn.functional import scaled_dot_product_attention

    def tensor(batch, tokens):
        return torch.randn(batch, HEADS, tokens, HEAD_DIM, device="cuda", dtype=torch.bfloat16)

    for batch in BATCHES:
        q, k, v = tensor(batch, 1), tensor(batch, CONTEXT), tensor(batch, CONTEXT)
        seconds = seconds_of(torch, lambda: scaled_dot_product_attention(q, k, v))
        tell(peer="torch attention decode bf16", shape=f"{batch} x {CONTEXT}", seconds=seconds)
    q, k, v = (tensor(1, PROMPT) for _ in range(3))
    seconds = seconds_of(torch, lambda: scaled_dot_product_attention(q, k, v, is_causal=True))
    tell(peer="torch attention prefill bf16", shape=f"1 x {PROMPT}", seconds=seconds)


def generate(torch, transformers):
    config = transformers.Phi3Config(pad_token_id=0)  # its defaults are Phi-3-mini's shape
    with torch.device("cuda"):
        model = transformers.Phi3ForCausalLM(config).to(torch.bfloat16).eval()
    for batch in BATCHES:
        prompt = torch.ones(batch, CONTEXT, dtype=torch.long, device="cuda")
        mask = torch.ones_like(prompt)

        def run(tokens):
            with torch.inference_mode():
                model.generate(prompt, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)

        run(1)
        took = []
        for tokens in (1, 1 + NEW_TOKENS):
            torch.cuda.synchronize()
            start = time.monotonic()
            run(tokens)
            torch.cuda.synchronize()
            took.append(time.monotonic() - start)
        tell(peer="transformers generate bf16", shape=f"batch {batch}, context {CONTEXT}", seconds=(took[1] - took[0]) / NEW_TOKENS,
             tokens=batch)


def main():
    try:
        import torch
    except ImportError:
        tell(peer="PyTorch", left_out="not installed")
        return
    if not torch.cuda.is_available():
        tell(peer="PyTorch", left_out="it sees no GPU")
        return
    attention(torch)
    try:
        import transformers
    except ImportError:
        tell(peer="transformers", left_out="not installed")
        return
    try:
        generate(torch, transformers)
    except torch.cuda.OutOfMemoryError as error:
        tell(peer="transformers generate bf16", left_out=str(error).split(".", maxsplit=1)[0])


if __name__ == "__main__":
    main()
