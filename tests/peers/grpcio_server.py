"""A grpcio server that answers each attempt of a call by the caller's plan.

The call names itself in the metadata `x-call` and sends `x-plan`: a step for
each attempt, separated by commas, of which the last is used for all further ones:

    OK                 the answer: an empty message
    HANG               no answer until the client goes away
    CODE               abort with the code, before the initial metadata
    CODE@PUSHBACK      the same, with grpc-retry-pushback-ms
    headers:CODE       abort after the initial metadata
    message:CODE       abort after a message (streams only)

Query answers for the call it names with what the server saw, in its initial
metadata: `x-before`, the grpc-previous-rpc-attempts of each attempt; `x-at`, the
milliseconds since the first; `x-left`, the milliseconds to its deadline; and
`x-messages`, how many messages it had sent. The port is the first line of output.
"""

import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "tower_weir.testkit.v1.VectorIndex"

lock = threading.Lock()
calls = {}


class Attempt:
    def __init__(self, before, left):
        self.before = before
        self.at = time.monotonic()
        self.left = left
        self.messages = 0


def begin(context):
    """Notes the attempt; returns it and its step."""
    metadata = dict(context.invocation_metadata())
    left = context.time_remaining()
    attempt = Attempt(metadata.get("grpc-previous-rpc-attempts", "-"), left)
    with lock:
        attempts = calls.setdefault(metadata["x-call"], [])
        attempts.append(attempt)
        number = len(attempts) - 1
    plan = metadata["x-plan"].split(",")
    return attempt, plan[min(number, len(plan) - 1)]


def follow(step, context):
    """Does what the step says; returns if that is to answer."""
    if step == "OK":
        return
    if step == "HANG":
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait(30)
        context.abort(grpc.StatusCode.CANCELLED, "the client has gone")
    step, _, pushback = step.partition("@")
    when, _, code = step.rpartition(":")
    if when == "headers":
        context.send_initial_metadata((("x-committed", "yes"),))
    if pushback:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", pushback),))
    context.abort(grpc.StatusCode[code], "as planned")


def unary_unary(_, context):
    attempt, step = begin(context)
    attempt.messages = 1
    follow(step, context)
    return b""


def unary_stream(_, context):
    attempt, step = begin(context)
    attempt.messages = 1
    if step == "OK" or step.startswith("message:"):
        yield b""
    follow(step, context)
    yield b""


def stream_unary(requests, context):
    attempt, step = begin(context)
    for _ in requests:
        attempt.messages += 1
    follow(step, context)
    return b""


def stream_stream(requests, context):
    attempt, step = begin(context)
    if step != "OK":
        # at once, while the client still sends
        if step.startswith("message:"):
            yield b""
        follow(step, context)
    for _ in requests:
        attempt.messages += 1
        yield b""


def query(_, context):
    metadata = dict(context.invocation_metadata())
    with lock:
        attempts = list(calls.get(metadata["x-call"], []))

    def line(name, value):
        return (name, ",".join(str(value(attempt)) for attempt in attempts))

    def left(attempt):
        # without a deadline grpcio names a time far in the future, or none
        if attempt.left is None or attempt.left > 1e6:
            return "-"
        return round(attempt.left * 1000)

    context.send_initial_metadata(
        (
            line("x-before", lambda attempt: attempt.before),
            line("x-at", lambda attempt: round((attempt.at - attempts[0].at) * 1000)),
            line("x-left", left),
            line("x-messages", lambda attempt: attempt.messages),
        )
    )
    return b""


def main():
    handlers = {
        "Upsert": grpc.unary_unary_rpc_method_handler(unary_unary),
        "Fetch": grpc.unary_stream_rpc_method_handler(unary_stream),
        "UpsertStream": grpc.stream_unary_rpc_method_handler(stream_unary),
        "Sync": grpc.stream_stream_rpc_method_handler(stream_stream),
        "Query": grpc.unary_unary_rpc_method_handler(query),
    }
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    # until the test is gone, and its end of the pipe with it
    sys.stdin.read()
    server.stop(None)


main()
