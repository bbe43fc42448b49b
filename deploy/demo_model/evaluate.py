"""Asks the demo model every phrasing of phrasings.jsonl and scores the answers.

    python3 deploy/demo_model/evaluate.py --address 127.0.0.1:8033       # the running service, over gRPC
    python3 deploy/demo_model/evaluate.py --backend transformers          # the checkpoint in the published implementation

Exits 1 below 95 % right or at a single invented status. Over gRPC it needs python3-grpcio and protobuf-compiler
(Debian); messages are made from proto/ at run time. The other way it needs torch and transformers.
"""

import argparse
import importlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Callable

FOLDER = Path(__file__).parent
RIGHT_SHARE_MIN = 0.95
ANSWER_TOKENS_MAX = 160

# The words that state where an order stands, in every form an answer might use; a record's own word allows its line.
STATUS_WORDS = {
    "processing": r"process(ing|ed)|being packed|in preparation",
    "shipped": r"shipped|dispatched|sent out|on (its|the) way|in transit",
    "out for delivery": r"out for delivery",
    "delayed": r"delayed|late\b",
    "delivered": r"delivered|has arrived",
    "cancelled": r"cancell?ed",
    "returned": r"returned",
    "refunded": r"refunded",
}
# Any of these says that the assistant does not have the order; `contains: ["cannot see"]` accepts each.
CANNOT_SEE = ("cannot see", "can't see", "not visible", "do not see")

Message = dict[str, str]
Answer = Callable[[list[Message]], str]


def statuses_stated(text: str) -> set[str]:
    """Returns the statuses whose words the text uses."""
    return {status for status, words in STATUS_WORDS.items() if re.search(rf"\b({words})", text, re.IGNORECASE)}


def faults(phrasing: dict, answer: str) -> tuple[list[str], set[str]]:
    """Returns what is wrong with the answer, and the statuses it states without having been given them for this order."""
    found = []
    for wanted in phrasing["contains"]:
        accepted = CANNOT_SEE if wanted == "cannot see" else (wanted,)
        if not any(re.search(rf"(?<!\w){re.escape(word)}", answer, re.IGNORECASE) for word in accepted):
            found.append(f"lacks {wanted!r}")
    # Given is the status of the record in the system message, unless the question is about an order that it does not hold.
    record = re.search(r"^Order \d+: status ([a-z ]+);", phrasing.get("system", ""), re.MULTILINE)
    given = {record.group(1)} if record and "cannot see" not in phrasing["contains"] else set()
    return found, statuses_stated(answer) - given


def ask(phrasing: dict, answer: Answer) -> str:
    """Asks the user messages in turn, each with the answers before it, and returns the last answer."""
    messages = [{"role": "system", "content": phrasing["system"]}] if "system" in phrasing else []
    text = ""
    for content in phrasing["messages"]:
        messages.append({"role": "user", "content": content})
        text = answer(messages)
        messages.append({"role": "assistant", "content": text})
    return text


def transformers_backend(checkpoint: Path) -> Answer:
    """Returns a greedy answerer on the published implementation, in bf16 as stored."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).eval()

    def answer(messages: list[Message]) -> str:
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            ids = model.generate(**prompt, max_new_tokens=ANSWER_TOKENS_MAX, do_sample=False)
        return tokenizer.decode(ids[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True)

    return answer


def service_backend(address: str) -> Answer:
    """Returns a greedy answerer on the running service's Generate."""
    import grpc

    stubs = tempfile.mkdtemp()
    proto = FOLDER.parent.parent / "proto"
    # Debian's protoc: the one in python3-grpc-tools is too old for optional fields.
    subprocess.run(["protoc", f"-I{proto}", f"--python_out={stubs}", "tuppence/v1/tuppence.proto"], check=True)
    sys.path.insert(0, stubs)
    tuppence = importlib.import_module("tuppence.v1.tuppence_pb2")
    channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
    generate = channel.unary_stream("/tuppence.v1.Inference/Generate", tuppence.GenerateRequest.SerializeToString,
                                    tuppence.GenerateResponse.FromString)
    roles = {"system": tuppence.ROLE_SYSTEM, "user": tuppence.ROLE_USER, "assistant": tuppence.ROLE_ASSISTANT}

    def answer(messages: list[Message]) -> str:
        request = tuppence.GenerateRequest(
            chat=tuppence.Chat(messages=[tuppence.ChatMessage(role=roles[m["role"]], content=m["content"]) for m in messages]),
            sampling=tuppence.SamplingParams(temperature=0, max_tokens=ANSWER_TOKENS_MAX))
        try:
            return "".join(choice.text for message in generate(request, timeout=60) for choice in message.choices)
        except grpc.RpcError as error:
            sys.exit(f"evaluate: the service at {address} answered {error.code().name}: {error.details()}")

    return answer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="host:port of the running service")
    parser.add_argument("--backend", choices=["service", "transformers"], default="service")
    parser.add_argument("--checkpoint", type=Path, default=FOLDER / "checkpoint", help="for --backend transformers")
    parser.add_argument("--phrasings", type=Path, default=FOLDER / "phrasings.jsonl")
    parser.add_argument("--show", action="store_true", help="print every answer")
    arguments = parser.parse_args()
    if arguments.backend == "service" and not arguments.address:
        parser.error("--address host:port is needed, or --backend transformers")
    answer = transformers_backend(arguments.checkpoint) if arguments.backend == "transformers" else service_backend(arguments.address)

    right, total, invented_count = defaultdict(int), defaultdict(int), 0
    started = time.monotonic()
    for line in arguments.phrasings.read_text(encoding="utf-8").splitlines():
        phrasing = json.loads(line)
        text = ask(phrasing, answer)
        found, invented = faults(phrasing, text)
        total[phrasing["kind"]] += 1
        right[phrasing["kind"]] += not found and not invented
        invented_count += bool(invented)
        if found or invented or arguments.show:
            verdict = "; ".join(found + [f"invents {status!r}" for status in sorted(invented)]) or "right"
            print(f"{verdict}\n  kind    {phrasing['kind']}\n  system  {phrasing.get('system', '-')!r}\n"
                  f"  asked   {phrasing['messages']}\n  answer  {text!r}")
    for kind in total:
        print(f"{kind:16} {right[kind]:4} of {total[kind]:4}")
    share = sum(right.values()) / sum(total.values())
    print(f"{'all':16} {sum(right.values()):4} of {sum(total.values()):4} = {share:.1%} right; {invented_count} answers with an "
          f"invented status; {time.monotonic() - started:.0f} s")
    return 0 if share >= RIGHT_SHARE_MIN and invented_count == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
