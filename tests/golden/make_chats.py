#!/usr/bin/env python3
"""Makes chats.json: rendered chats and their token ids, from transformers' fast LlamaTokenizer.

    python3 tests/golden/make_chats.py [FOLDER]

Needs transformers 4.57; FOLDER holds Phi-3's published tokenizer files, ../shared/data/tokenizer
beside the repository by default. chat_template_test.cc holds our templates and EncodeParts against it.

  templates   name: Jinja text, as the checkpoints' tokenizer_config.json have it
  variants    name: changes to the published files that revisions of the family differ in
                flags        id: {"lstrip", "rstrip"}, in tokenizer_config.json
                normalizer, pre_tokenizer   of tokenizer.json, if named
  chats[]     variant, template, messages [[role, content], ...], prompt (add_generation_prompt), ids

No content holds the text of a special token: transformers would parse it, and we never do.
"""

import json
import pathlib
import shutil
import sys
import tempfile

from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent
FOLDER = HERE.parent.parent.parent / "shared/data/tokenizer"

ROLES = (
    "{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}")
SYSTEM = "{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}{"
MINI = (
    "{% for message in messages %}{% if (message['role'] == 'user') %}{{'<|user|>' + '\\n' + "
    "message['content'] + '<|end|>' + '\\n' + '<|assistant|>' + '\\n'}}{% elif (message['role'] == "
    "'assistant') %}{{message['content'] + '<|end|>' + '\\n'}}{% endif %}{% endfor %}")
ANY_ROLE = (
    "{% for message in messages %}{{'<|' + message['role'] + '|>' + '\\n' + message['content'] + "
    "'<|end|>\\n' }}{% endfor %}")
TEMPLATES = {
    "phi-3-mini": "{{ bos_token }}" + MINI,
    "phi-3-medium": MINI,
    "phi-3-small": "{{ bos_token }}" + ANY_ROLE + "{% if add_generation_prompt %}"
                   "{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}",
    "phi-3-vision": ANY_ROLE + "{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}"
                    "{{- '<|assistant|>\\n' -}}{% endif %}",
    "phi-3-mini-2024-07": "{% for message in messages %}{% if message['role'] == 'system' %}" + SYSTEM + ROLES,
    "phi-3.5": "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}"
               + SYSTEM + ROLES,
}

RSTRIP = {str(i): {"lstrip": False, "rstrip": True} for i in (2, 32001, 32006, 32007, 32010)}
VARIANTS = {
    "published": {"flags": {}},
    # As llama.cpp does for every Phi-3, and earlier revisions had: nothing after a special token.
    "rstrip": {"flags": RSTRIP},
    "lstrip": {"flags": {"32007": {"lstrip": True, "rstrip": False}}},
    # What a conversion with legacy=false writes: a space before the first segment only.
    "metaspace": {"flags": {}, "normalizer": None,
                  "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581",
                                    "prepend_scheme": "first", "split": False}},
}

CHATS = [
    [["user", "Hello"]],
    [["user", "Where is my order 48213?"]],
    [["user", " leading and trailing "]],
    [["user", "\n\n  indented\n\tcode();\n\n"]],
    [["user", "\u00a0\u3000wide spaces\u2003"]],
    [["user", "I\u2019d like \u00fcber-fast \u4e2d\u6587 and \U0001f999 \ud55c\uad6d\uc5b4"]],
    [["user", "< |end| > <|en <|user | > \u2581marked\u2581"]],
    [["user", "Hi"], ["assistant", "Hello! How can I help?"], ["user", "Thanks"]],
    [["user", "Hi"], ["assistant", "  spaced answer \n"], ["user", ""]],
    [["user", "a"], ["assistant", "b"]],
    [["system", "You are a shop's assistant."], ["user", "Opening hours?"]],
    [["system", ""], ["user", "Hello"]],
    [["system", "Order 48213: shipped 2024-05-02.\nCarrier: \u00c5land Post"], ["user", "Where is it?"],
     ["assistant", "It was shipped on 2 May."], ["user", "And when does it arrive?"]],
]


def changed_folder(source, target, variant):
    """A copy of the published files with the variant's changes."""
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, target / name)
    config = json.loads((target / "tokenizer_config.json").read_text())
    for token_id, flags in variant["flags"].items():
        config["added_tokens_decoder"][token_id].update(flags)
    (target / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = json.loads((target / "tokenizer.json").read_text())
    for part in ("normalizer", "pre_tokenizer"):
        if part in variant:
            tokenizer[part] = variant[part]
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))


def wanted(variant, template, number, messages, prompt):
    """All chats in the published files, the telling ones in the others."""
    if template in ("phi-3-mini", "phi-3-medium") and messages[0][0] == "system":
        return False  # dropped without a word there; we refuse it
    if variant == "published":
        return template in ("phi-3-mini", "phi-3.5") and prompt or number in (0, 9, 11)
    return template == "phi-3.5" and prompt and number in (0, 2, 3, 4, 6, 8, 12)


def main():
    source = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    chats = []
    for variant_name, variant in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            changed_folder(source, pathlib.Path(folder), variant)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            assert tokenizer.is_fast
            for template, text in TEMPLATES.items():
                for number, messages in enumerate(CHATS):
                    for prompt in (True, False):
                        if not wanted(variant_name, template, number, messages, prompt):
                            continue
                        ids = tokenizer.apply_chat_template(
                            [{"role": role, "content": content} for role, content in messages],
                            chat_template=text, add_generation_prompt=prompt, tokenize=True)
                        chats.append({"variant": variant_name, "template": template, "messages": messages,
                                      "prompt": prompt, "ids": ids})
    lines = ",\n".join(json.dumps(chat, separators=(",", ":")) for chat in chats)
    head = json.dumps({"templates": TEMPLATES, "variants": VARIANTS}, indent=1)
    (HERE / "chats.json").write_text(head[:-2] + ',\n "chats": [\n' + lines + "\n]}\n")
    print(len(chats), "chats")


if __name__ == "__main__":
    main()
