"""A verify-svc that says what a test wants, and remembers what it was asked."""

import concurrent.futures
import contextlib
import time

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from dssd.v1 import generation_pb2, generation_pb2_grpc

SEED = 2**64 - 2
NUMERICS = "scripted-numerics"
LONGEST_WAIT = 20

Call = generation_pb2.GenerateStreamResponse


class Scripted(generation_pb2_grpc.GenerationServicer):
    """Plays one script for each call of GenerateStream: a function of the call's context that yields messages."""

    def __init__(self, scripts):
        self._scripts = iter(scripts)
        self.requests = []
        self.times = []

    def GenerateStream(self, request, context):
        self.requests.append(request)
        self.times.append(time.monotonic())
        script = next(self._scripts, None)
        if script is None:
            context.abort(grpc.StatusCode.INTERNAL, "one call too many")
        yield from script(context)


@contextlib.contextmanager
def playing(*scripts):
    """A server that plays these scripts, and its address."""
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=4))
    scripted = Scripted(scripts)
    generation_pb2_grpc.add_GenerationServicer_to_server(scripted, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield scripted, address
    finally:
        server.stop(None).wait()


def begin(max_new_tokens=6):
    info = generation_pb2.PromptInfo(numerics_id=NUMERICS)
    info.sampling.seed = SEED
    info.sampling.max_new_tokens = max_new_tokens
    return Call(prompt_info=info)


def tokens(first_index, *ids):
    """Tokens whose text are their ids in brackets."""
    text = "".join(f"[{token}]" for token in ids)
    return Call(tokens=generation_pb2.Tokens(first_index=first_index, token_ids=ids, text=text))


def end(generated, resumed=0):
    finish = generation_pb2.FinishInfo(
        finish_reason=generation_pb2.FINISH_REASON_LENGTH,
        generated_token_count=generated,
        resumed_token_count=resumed,
    )
    return Call(finish_info=finish)


def sending(*messages):
    """A script that sends these messages, and ends."""
    return lambda context: iter(messages)


def breaking(*messages):
    """A script that breaks off after these messages."""

    def script(context):
        yield from messages
        context.abort(grpc.StatusCode.UNAVAILABLE, "broken off")

    return script


def hanging(*messages):
    """A script that says nothing more after these messages, until the call ends."""

    def script(context):
        yield from messages
        until = time.monotonic() + LONGEST_WAIT
        while context.is_active() and time.monotonic() < until:
            time.sleep(0.01)

    return script


def refusing(seconds):
    """A script that has no room, and says when to try again."""

    def script(context):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(seconds * 1e9))
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        status = status_pb2.Status(
            code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message="no room", details=[detail]
        )
        context.abort_with_status(rpc_status.to_status(status))
        yield

    return script
