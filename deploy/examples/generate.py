"""Streams one answer and shows its cost. Debian: python3-grpcio, python3-protobuf, protobuf-compiler.

    python3 deploy/examples/generate.py 127.0.0.1:8033 ["Your question" [SECONDS]]
"""
import pathlib, subprocess, sys, tempfile

import grpc

here = pathlib.Path(__file__).resolve().parent
with tempfile.TemporaryDirectory() as made:  # an application would keep the generated module
    subprocess.run(["protoc", f"-I{here.parents[1]}/proto", f"--python_out={made}", "tuppence/v1/tuppence.proto"], check=True)
    sys.path.append(made)
    from tuppence.v1 import tuppence_pb2 as api

question = sys.argv[2] if len(sys.argv) > 2 else "Where is my order 48213?"
seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 30
request = api.GenerateRequest(sampling=api.SamplingParams(temperature=0, max_tokens=200))
request.chat.messages.add(role=api.ROLE_SYSTEM, content="Order 48213: status shipped; carrier DHL; "
                          "expected 14 March 2026; items 2; total 39.90 EUR")
request.chat.messages.add(role=api.ROLE_USER, content=question)

channel = grpc.insecure_channel(sys.argv[1], options=[("grpc.enable_http_proxy", 0),
    ("grpc.service_config", (here / "service_config.json").read_text())])  # retries, before the first token only
generate = channel.unary_stream("/tuppence.v1.Inference/Generate", api.GenerateRequest.SerializeToString,
                                api.GenerateResponse.FromString)
call = generate(request, timeout=seconds)  # the service stops working then, too
try:
    for message in call:
        print("".join(choice.text for choice in message.choices), end="", flush=True)
        if message.HasField("cost"):
            print(f"\n{message.usage.completion_tokens} tokens, {message.cost.cost_nanousd / 1e9:.9f} USD")
except KeyboardInterrupt:
    call.cancel()  # the service stops within one step; what was used is still paid
except grpc.RpcError as error:
    sys.exit(f"{error.code().name}: {error.details()}")
