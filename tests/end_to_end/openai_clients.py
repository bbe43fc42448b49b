"""What users' programs do, with three client libraries as they are: answers, streams, usage and
cost, and each error as the exception that the library has for it. Run by openai_clients_test.py.

    python3 openai_clients.py BASE_URL KEY KEY_WITH_ONE_REQUEST_A_MINUTE KEY_WITHOUT_BUDGET SERVICE_PID

The one of a request a minute may use the class standard alone.
"""
import asyncio
import json
import os
import signal
import sys
import time

base_url, key, slow_key, poor_key = sys.argv[1:5]
service_pid = int(sys.argv[5])
# Nothing but this machine is asked: no price list, no tracing.
os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", LANGCHAIN_TRACING_V2="false",
                  NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")

import litellm  # noqa: E402
import openai  # noqa: E402
from langchain_openai import ChatOpenAI, OpenAI as LangchainCompletion  # noqa: E402

MODEL = "gpt-4o-mini"  # as her code has it: an alias here
QUESTION = [{"role": "system", "content": "Order 48213: status shipped; carrier DHL; "
                                          "expected 14 March 2026; items 2; total 39.90 EUR"},
            {"role": "user", "content": "Where is my order 48213?"}]


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def limited(kind, call):
    """Of a caller with one request a minute: refused by the second."""
    def twice():
        call()
        call()
    return raises(kind, twice)


def breaks_off(kind, stream_within):
    """An answer that cannot be whole within its time: it has begun, then the stream says why it ends.
    stream_within(ms) gives the stream; a busy machine may need longer for the first of it."""
    for ms in (300, 900, 2700):
        pieces = []

        def read():
            for piece in stream_within(str(ms)):
                pieces.append(piece)
        error = raises(kind, read)
        if pieces:
            return error
    raise AssertionError("the answer never began")


LONG = {"max_tokens": 1900, "extra_body": {"ignore_eos": True}}


def with_openai():
    client = openai.OpenAI(base_url=base_url, api_key=key)
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0,
                                            max_completion_tokens=60)
    text = answer.choices[0].message.content
    assert "48213" in text, text
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer._request_id
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens >= 0
    extra = usage.model_extra
    assert 0 < extra["cost"] == extra["cost_nanousd"] * 1e-9
    assert extra["cost_details"]["machine_ns"] > 0

    chunks = list(client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_completion_tokens=60, stream=True,
        stream_options={"include_usage": True}))
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert streamed == text, streamed
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens == usage.completion_tokens
    assert chunks[-1].usage.model_extra["cost"] > 0

    logprobs = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=3,
                                              logprobs=True, top_logprobs=2, seed=1)
    content = logprobs.choices[0].logprobs.content
    assert all(len(t.top_logprobs) == 2 and t.logprob <= 0 for t in content)
    several = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=5, n=3)
    assert [c.index for c in several.choices] == [0, 1, 2]

    plain = client.completions.create(model=MODEL, prompt="Your order", max_tokens=5, temperature=0)
    again = client.completions.create(model=MODEL, prompt="Your order", max_tokens=5, temperature=0,
                                      stream=True)
    assert "".join(c.choices[0].text for c in again if c.choices) == plain.choices[0].text
    listed = {model.id for model in client.models.list()}
    assert MODEL in listed and len(listed) == 2, listed  # its own name and the alias

    # A stream that is left early is cancelled, and the client goes on.
    with client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True) as stream:
        next(iter(stream))
    assert client.models.retrieve(MODEL).id


def errors_of_openai():
    client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)

    def ask(**fields):
        return client.chat.completions.create(**{"model": MODEL, "messages": QUESTION, **fields})

    bad = raises(openai.BadRequestError, lambda: ask(temperature=3))
    assert bad.param == "temperature" and bad.type == "invalid_request_error", bad
    assert "allowed is 0 to 2" in bad.message and bad.request_id
    long = raises(openai.BadRequestError, lambda: ask(max_tokens=100_000))
    assert long.code == "context_length_exceeded", long.code
    missing = raises(openai.NotFoundError, lambda: ask(model="gpt-9"))
    assert missing.code == "model_not_found"
    raises(openai.BadRequestError, lambda: ask(tools=[{"type": "function", "function": {
        "name": "f", "parameters": {}}}]))
    for stream in (False, True):
        stranger = openai.OpenAI(base_url=base_url, api_key="sk-none", max_retries=0)
        unknown = raises(openai.AuthenticationError, lambda: stranger.chat.completions.create(
            model=MODEL, messages=QUESTION, stream=stream))
        assert unknown.code == "invalid_api_key"
    slow = openai.OpenAI(base_url=base_url, api_key=slow_key, max_retries=0)
    first = slow.chat.completions.with_raw_response.create(model=MODEL, messages=QUESTION,
                                                           max_tokens=2)
    assert first.headers["x-ratelimit-limit-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    soon = raises(openai.RateLimitError, lambda: slow.chat.completions.create(
        model=MODEL, messages=QUESTION))
    assert soon.code == "rate_limit_exceeded" and soon.type == "rate_limit_error"
    assert 0 < int(soon.response.headers["retry-after-ms"]) <= 60_000
    assert soon.response.headers["x-should-retry"] == "true"
    banned = raises(openai.PermissionDeniedError, lambda: slow.chat.completions.create(
        model=MODEL, messages=QUESTION, extra_body={"priority_class": "interactive"}))
    assert banned.code == "class_not_allowed", banned
    poor = openai.OpenAI(base_url=base_url, api_key=poor_key, max_retries=0)
    for stream in (False, True):
        spent = raises(openai.RateLimitError, lambda: poor.chat.completions.create(
            model=MODEL, messages=QUESTION, max_tokens=50, stream=stream))
        assert spent.code == "insufficient_quota", spent
    late = raises(openai.InternalServerError,
                  lambda: ask(**LONG, extra_headers={"x-request-timeout-ms": "30"}))
    assert late.status_code == 504 and late.type == "timeout_error", late
    broken = breaks_off(openai.APIError, lambda ms: ask(
        **LONG, stream=True, extra_headers={"x-request-timeout-ms": ms}))
    assert not isinstance(broken, openai.APIStatusError) and broken.type == "timeout_error", broken
    assert "deadline" in broken.message


def parameters_of_openai():
    client = openai.OpenAI(base_url=base_url, api_key=key)

    def ask(**fields):
        return client.chat.completions.create(
            **{"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 60, **fields})

    whole = ask().choices[0].message.content
    parts = [{"role": "developer", "content": QUESTION[0]["content"]},
             {"role": "user", "content": [{"type": "text", "text": QUESTION[1]["content"]}]}]
    cut = ask(messages=parts, stop=["DHL"], logit_bias={"5": -100}).choices[0]
    assert cut.message.content == whole.split("DHL")[0] != whole, cut
    assert cut.finish_reason == "stop"
    drawn = [ask(temperature=1, seed=seed, presence_penalty=0.5, frequency_penalty=0.5, top_p=0.9,
                 user="u").choices[0].message.content for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1], drawn
    for stream in (False, True):
        answer = ask(max_tokens=1900, stream=stream,
                     extra_body={"ignore_eos": True, "max_cost_nanousd": 20_000})
        last = [c for c in answer if c.choices][-1] if stream else answer
        assert last.choices[0].finish_reason == "cost_limit", last

    async def at_once():
        async with openai.AsyncOpenAI(base_url=base_url, api_key=key) as many:
            return await asyncio.gather(*[many.chat.completions.create(
                model=MODEL, messages=QUESTION, temperature=0, max_tokens=60) for _ in range(8)])
    assert {a.choices[0].message.content for a in asyncio.run(at_once())} == {whole}


def batches_of_openai():
    client = openai.OpenAI(base_url=base_url, api_key=key)
    lines = [{"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions",
              "body": {"model": MODEL, "messages": QUESTION, "max_tokens": number}}
             for number in (5, 6, 100_000)]
    content = "\n".join(json.dumps(line) for line in lines).encode()
    file = client.files.create(file=("in.jsonl", content), purpose="batch",
                               expires_after={"anchor": "created_at", "seconds": 7200})
    assert file.expires_at == file.created_at + 7200
    assert client.files.retrieve(file.id).bytes == len(content)
    assert client.files.content(file.id).read() == content
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions",
                                  completion_window="24h", metadata={"night": "7"},
                                  output_expires_after={"anchor": "created_at", "seconds": 3600},
                                  extra_headers={"Idempotency-Key": "night-7"})
    assert client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h",
        metadata={"night": "7"}, output_expires_after={"anchor": "created_at", "seconds": 3600},
        extra_headers={"Idempotency-Key": "night-7"}).id == batch.id
    while batch.status in ("validating", "in_progress", "finalizing"):
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed" and batch.metadata["night"] == "7", batch
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 1), batch
    output = client.files.retrieve(batch.output_file_id)
    assert output.expires_at == output.created_at + 3600
    answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    tokens = {a["custom_id"]: a["response"]["body"]["usage"]["completion_tokens"] for a in answers}
    assert tokens == {"5": 5, "6": 6}, tokens
    assert "100000" in client.files.content(batch.error_file_id).text
    assert [b.id for b in client.batches.list(limit=1)] == [batch.id]
    assert {f.id for f in client.files.list()} == {file.id, batch.output_file_id, batch.error_file_id}
    raises(openai.BadRequestError, lambda: client.batches.cancel(batch.id))
    assert client.files.delete(file.id).deleted
    raises(openai.NotFoundError, lambda: client.files.retrieve(file.id))
    ask = {"model": MODEL, "messages": QUESTION, "max_tokens": 9,
           "extra_headers": {"Idempotency-Key": "once"}}
    first = client.chat.completions.create(**ask)
    again = client.chat.completions.create(**ask)
    assert again.choices == first.choices and again.usage.model_extra["cost"] == 0
    raises(openai.ConflictError, lambda: client.chat.completions.create(**{**ask, "max_tokens": 10}))


def with_litellm():
    litellm.telemetry = False
    common = {"model": f"openai/{MODEL}", "api_base": base_url, "api_key": key,
              "messages": QUESTION, "temperature": 0, "max_tokens": 60}
    answer = litellm.completion(**common)
    assert "48213" in answer.choices[0].message.content
    assert answer.usage.total_tokens > 0
    streamed = "".join(c.choices[0].delta.content or "" for c in
                       litellm.completion(**common, stream=True) if c.choices)
    assert streamed == answer.choices[0].message.content, streamed
    for stream in (False, True):
        def ask(**fields):
            answer = litellm.completion(**{**common, **fields}, stream=stream, num_retries=0,
                                        max_retries=0)
            return list(answer) if stream else answer
        raises(litellm.AuthenticationError, lambda: ask(api_key="sk-none"))
        limited(litellm.RateLimitError, lambda: ask(api_key=slow_key, max_tokens=2))
    breaks_off(openai.APIError, lambda ms: litellm.completion(
        **{**common, **LONG}, stream=True, num_retries=0, max_retries=0,
        extra_headers={"x-request-timeout-ms": ms}))
    raises(litellm.BadRequestError,
           lambda: litellm.completion(**{**common, "temperature": 3}, num_retries=0))


def with_langchain():
    chat = ChatOpenAI(base_url=base_url, api_key=key, model=MODEL, temperature=0, max_tokens=60)
    messages = [(m["role"], m["content"]) for m in QUESTION]
    answer = chat.invoke(messages)
    assert "48213" in answer.content
    assert answer.usage_metadata["total_tokens"] > 0
    assert "".join(c.content for c in chat.stream(messages)) == answer.content
    text = LangchainCompletion(base_url=base_url, api_key=key, model=MODEL, max_tokens=5)
    assert isinstance(text.invoke("Your order"), str)
    wrong = ChatOpenAI(base_url=base_url, api_key="sk-none", model=MODEL, max_retries=0)
    slow = ChatOpenAI(base_url=base_url, api_key=slow_key, model=MODEL, max_retries=0, max_tokens=2)
    for ask in (lambda model: model.invoke(messages), lambda model: list(model.stream(messages))):
        raises(openai.AuthenticationError, lambda: ask(wrong))
        limited(openai.RateLimitError, lambda: ask(slow))
    breaks_off(openai.APIError, lambda ms: ChatOpenAI(
        base_url=base_url, api_key=key, model=MODEL, max_retries=0, **LONG,
        default_headers={"x-request-timeout-ms": ms}).stream(messages))


def while_it_drains():
    """Last: whoever is being answered is answered to the end, whoever comes hears 503."""
    client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
    assert client.models.list().data  # so that there is a connection
    stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True, **LONG)
    next(stream)
    other = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
    assert other.models.list().data
    os.kill(service_pid, signal.SIGTERM)
    end = time.monotonic() + 10
    while True:
        try:
            other.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=1)
        except openai.InternalServerError as error:
            assert error.status_code == 503 and error.type == "overloaded_error", error
            break
        assert time.monotonic() < end, "the signal is not heard of"
    assert list(stream)[-1].choices[0].finish_reason == "length"


for part in (with_openai, errors_of_openai, parameters_of_openai, batches_of_openai, with_litellm,
             with_langchain, while_it_drains):
    part()
    print(f"  {part.__name__}: passed", flush=True)
