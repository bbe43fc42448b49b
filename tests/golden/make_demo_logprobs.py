"""Makes demo_model.json: what transformers gives for a text under deploy/demo_model/checkpoint.

Needs torch and transformers 4.57:   python3 tests/golden/make_demo_logprobs.py
To be run after each training; answer_test.cc holds `tuppence score` against it. Weights as stored (bf16), arithmetic in
double precision: token_ids of one chat with a record, and the log-probability of each token but the first.
"""

import json
import pathlib

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

FOLDER = pathlib.Path(__file__).parent
CHECKPOINT = FOLDER.parent.parent / "deploy/demo_model/checkpoint"
CHAT = [
    {"role": "system", "content": "Order 48213: status shipped; carrier DHL; expected 14 March 2026; items 2; total 39.90 EUR"},
    {"role": "user", "content": "Where is my order 48213?"},
    {"role": "assistant", "content": "Order 48213 has been shipped with DHL and is expected on 14 March 2026."},
]


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float64, attn_implementation="eager").eval()
    ids = tokenizer(tokenizer.apply_chat_template(CHAT, tokenize=False), add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        logprobs = torch.log_softmax(model(ids).logits[0].double(), dim=-1)
    chosen = logprobs[:-1].gather(1, ids[0, 1:, None])[:, 0]
    golden = {"token_ids": ids[0].tolist(), "logprobs": [round(value, 6) for value in chosen.tolist()]}
    (FOLDER / "demo_model.json").write_text(json.dumps(golden) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
