"""A complete client of verify-svc: streams, cancels, keeps a deadline, goes on after a failure."""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

import grpc
from google.protobuf import text_format
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from dssd.v1 import generation_pb2, generation_pb2_grpc

# Failures in a row, without a new token between them, after which a generation is given up.
MOST_FAILURES = 8
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
# ABORTED: what came was not read in time.
PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
}
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", 16 << 20),
    # Finds out that a server vanished without a word.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A name with several addresses: all are used, by `dns:///NAME:PORT`.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
]


class Generation:
    """What has come of one generation, and what another attempt needs to go on."""

    def __init__(self, request):
        self._request = request
        self.token_ids = []
        self.info = None
        self.finish = None

    def request(self):
        """The request of the next attempt."""
        request = generation_pb2.GenerateRequest()
        request.CopyFrom(self._request)
        if self.info:
            request.resume.token_ids.extend(self.token_ids)
            request.resume.seed = self.info.sampling.seed
            request.resume.numerics_id = self.info.numerics_id
        return request

    def take(self, tokens):
        """Appends new tokens; a gap would spoil the text."""
        if tokens.first_index != len(self.token_ids):
            raise ValueError(f"token {tokens.first_index} came, not {len(self.token_ids)}")
        self.token_ids.extend(tokens.token_ids)

    def is_complete(self):
        """Whether all tokens came: where only `finish_info` was lost, there is nothing to resume."""
        if self.finish:
            return True
        if not self.token_ids:
            return False
        sampling = self.info.sampling
        return (
            len(self.token_ids) >= sampling.max_new_tokens
            or self.token_ids[-1] in sampling.stop_token_ids
        )


def note(text):
    print(text, file=sys.stderr, flush=True)


def show_round(round_trace):
    """How each token of a round came; those behind a refused one were not judged."""
    for token in round_trace.drafted:
        fate = "accepted" if token.accepted else "refused"
        note(f"{token.token_id} {fate} exit={token.exit_head} entropy={token.entropy:.4f}")
    if round_trace.drafted:
        note(f"{round_trace.correction} corrected")
    else:
        reason = generation_pb2.PlainReason.Name(round_trace.plain_reason)
        note(f"{round_trace.correction} plain {reason}")


def show_finish(finish):
    reason = generation_pb2.FinishReason.Name(finish.finish_reason)
    speculation = finish.speculative_decoding
    note(
        f"{reason} generated={finish.generated_token_count} resumed={finish.resumed_token_count}"
        f" drafted={speculation.num_draft_tokens} accepted={speculation.num_accepted_tokens}"
    )


def error_details(error):
    """The `google.rpc` details of a failed call, by the names of their types."""
    status = rpc_status.from_call(error)
    details = {}
    for packed in status.details if status else []:
        name = packed.TypeName().removeprefix("google.rpc.")
        detail = getattr(error_details_pb2, name)()
        packed.Unpack(detail)
        details[name] = detail
    return details


def show_error(error):
    note(f"{error.code().name}: {error.details()}")
    for name, detail in error_details(error).items():
        note(f"  {name}: {text_format.MessageToString(detail, as_one_line=True)}")


def pause(error, failures):
    """Seconds to wait: what the server says, else twice as long after each failure."""
    retry = error_details(error).get("RetryInfo")
    if retry:
        return retry.retry_delay.ToTimedelta().total_seconds()
    return min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE)


async def attempt(stub, generation, arguments, timeout, again):
    """Reads one stream to its end. False: it was cancelled."""
    call = stub.GenerateStream(
        generation.request(),
        timeout=timeout,
        metadata=authorization(arguments),
        # A call after a failure waits for the connection; the first one tells at once of a wrong address.
        wait_for_ready=again,
    )
    async for message in call:
        match message.WhichOneof("event"):
            case "prompt_info":
                generation.info = message.prompt_info
            case "tokens":
                generation.take(message.tokens)
                print(message.tokens.text, end="", flush=True)
            case "round":
                show_round(message.round)
            case "finish_info":
                generation.finish = message.finish_info
        if arguments.cancel_after and len(generation.token_ids) >= arguments.cancel_after:
            call.cancel()
            return False
    return True


async def generate(stub, generation, arguments):
    """Attempts until the generation is complete or cancelled. All attempts share one deadline."""
    deadline = time.monotonic() + arguments.deadline
    failures = 0
    while True:
        before = len(generation.token_ids)
        try:
            timeout = max(deadline - time.monotonic(), 0)
            return await attempt(stub, generation, arguments, timeout, failures > 0)
        except grpc.aio.AioRpcError as error:
            if generation.is_complete():
                return True
            failures = 1 if len(generation.token_ids) > before else failures + 1
            if error.code() not in PASSING or failures > MOST_FAILURES:
                raise
            seconds = pause(error, failures)
            show_error(error)
            note(f"again in {seconds:.3f} s with {len(generation.token_ids)} tokens")
            await asyncio.sleep(min(seconds, max(deadline - time.monotonic(), 0)))


def authorization(arguments):
    if not arguments.token_file:
        return []
    lines = arguments.token_file.read_text().splitlines()
    token = next(line for line in lines if line and not line.startswith("#"))
    return [("authorization", f"Bearer {token}")]


def channel(arguments):
    if not arguments.tls_ca:
        return grpc.aio.insecure_channel(arguments.endpoint, CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(arguments.tls_ca.read_bytes())
    return grpc.aio.secure_channel(arguments.endpoint, credentials, CHANNEL_OPTIONS)


def request(arguments):
    # `None` leaves a field unset, which is another thing than zero.
    return generation_pb2.GenerateRequest(
        text=arguments.prompt,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        seed=arguments.seed,
        ignore_eos=arguments.ignore_eos,
        speculation=generation_pb2.Speculation(policy=arguments.policy, trace=arguments.trace),
    )


async def run(arguments):
    generation = Generation(request(arguments))
    async with channel(arguments) as connection:
        stub = generation_pb2_grpc.GenerationStub(connection)
        try:
            finished = await generate(stub, generation, arguments)
        except grpc.aio.AioRpcError as error:
            show_error(error)
            return 1
        finally:
            print(flush=True)
    if not finished:
        note(f"cancelled after {len(generation.token_ids)} tokens")
    elif not generation.is_complete():
        note(f"the stream ended before the answer, after {len(generation.token_ids)} tokens")
        return 1
    elif generation.finish:
        show_finish(generation.finish)
    return 0


def parse(command_line):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt")
    parser.add_argument("--endpoint", default="127.0.0.1:50051", metavar="HOST:PORT")
    parser.add_argument("--tls-ca", type=Path, metavar="FILE", help="encrypt; CAs in PEM")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="its first line is the token")
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N")
    parser.add_argument("--temperature", type=float, default=0, metavar="T", help="0: greedy")
    parser.add_argument("--top-p", type=float, metavar="P")
    parser.add_argument("--seed", type=int, metavar="N", help="unset: the server draws one")
    parser.add_argument("--ignore-eos", action="store_true", help="go on after the end of the text")
    parser.add_argument("--policy", default="", help="draft policy; unset: the server's")
    parser.add_argument("--deadline", type=float, default=60, metavar="SECONDS", help="for all attempts")
    parser.add_argument("--cancel-after", type=int, metavar="TOKENS")
    parser.add_argument("--trace", action="store_true", help="tell how each token came")
    return parser.parse_args(command_line)


if __name__ == "__main__":
    sys.exit(asyncio.run(run(parse(None))))
