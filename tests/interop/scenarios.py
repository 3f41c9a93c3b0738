"""What every client program must do, whatever its language. A scenario gets the program and the world."""

import collections
import json
import subprocess
import threading
import time
import urllib.request

import grpc

from dssd.v1 import generation_pb2, generation_pb2_grpc, server_pb2
from programs import finish, read
from scripted import NUMERICS, SEED, begin, breaking, end, hanging, playing, refusing, sending, tokens
from services import GRPC, HTTP, Service, running

PROMPT = "Once upon a time"
LONG = ["--max-new-tokens", 1000, "--ignore-eos"]
WAIT_SECONDS = 10
# So that a service ends soon.
AT_ONCE = ["--drain-delay", "0", "--drain-timeout", "0"]
RETRY_SECONDS = 1.2
DEADLINE_SECONDS = 2

# The folder of the binaries, the addresses of a running pair, and the files of an encrypted one.
World = collections.namedtuple("World", ["binaries", "pair", "secrets"])


def answer(world, *arguments):
    """What `dssd generate` tells of the same generation."""
    generate = subprocess.run(
        [
            world.binaries / "dssd", "generate", "--json", "--endpoint", f"http://{world.pair.verify}",
            *map(str, arguments), PROMPT,
        ],
        capture_output=True, text=True, check=True, timeout=WAIT_SECONDS,
    )
    return json.loads(generate.stdout)


def metric(address, name, **labels):
    """The sum of a metric over all series with these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    with urllib.request.urlopen(f"http://{address}/metrics") as page:
        lines = page.read().decode().splitlines()
    series = [line for line in lines if line.startswith(name + "{") and all(w in line for w in wanted)]
    assert series, f"there is no metric {name} {labels}"
    return sum(float(line.rsplit(" ", 1)[1]) for line in series)


def wait_until(holds, what):
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"not within {WAIT_SECONDS} s: {what}"
        time.sleep(0.01)


def told(outcome, beginning):
    """The lines of stderr that begin so."""
    return [line for line in outcome.notes if line.startswith(beginning)]


def gives_the_text(program, world):
    for arguments in ([], ["--temperature", 0.9, "--seed", 7]):
        outcome = program.run(world.pair.verify, *arguments)
        assert outcome.status == 0, outcome
        assert outcome.text == answer(world, *arguments)["text"], outcome


def streams(program, world):
    """The text comes before the generation is over."""
    was_read = threading.Event()

    def script(context):
        yield from (begin(2), tokens(0, 10))
        if was_read.wait(DEADLINE_SECONDS):
            yield from (tokens(1, 11), end(2))

    with playing(script) as (_, address):
        process = program.start(address, "--deadline", 2 * DEADLINE_SECONDS)
        begun = read(process, 4)
        was_read.set()
        outcome = finish(process, begun)
    assert outcome.text == "[10][11]", outcome


def cancels(program, world):
    def cancelled():
        return metric(world.pair.verify_http, "dssd_requests_total", finish_reason="cancelled")

    before = cancelled()
    outcome = program.run(world.pair.verify, *LONG, "--cancel-after", 5)
    assert outcome.status == 0 and told(outcome, "cancelled after "), outcome
    wait_until(lambda: cancelled() == before + 1, "the server cancels the generation")
    wait_until(lambda: metric(world.pair.verify_http, "dssd_num_requests_running") == 0, "it frees its place")
    wait_until(lambda: has_all_blocks(world.pair.verify), "it takes its memory back")


def has_all_blocks(address):
    with grpc.insecure_channel(address) as channel:
        stub = generation_pb2_grpc.GenerationStub(channel)
        load = stub.GetLoad(server_pb2.GetLoadRequest(), timeout=WAIT_SECONDS)
    return load.running == 0 and load.free_kv_blocks == load.kv_blocks


def keeps_the_deadline(program, world):
    remaining = []

    def script(context):
        remaining.append(context.time_remaining())
        yield from hanging(begin(), tokens(0, 10))(context)

    begun = time.monotonic()
    with playing(script) as (_, address):
        outcome = program.run(address, "--deadline", DEADLINE_SECONDS)
    assert outcome.status == 1 and told(outcome, "DEADLINE_EXCEEDED"), outcome
    assert time.monotonic() - begun < 5 * DEADLINE_SECONDS
    assert remaining[0] is not None and remaining[0] <= DEADLINE_SECONDS, "the server was not told"


def is_ended_by_its_deadline(program, world):
    def ended():
        """By whichever comes first: its own clock, or the client that hangs up by the same one."""
        reasons = ("deadline_exceeded", "cancelled")
        return sum(metric(world.pair.verify_http, "dssd_requests_total", finish_reason=why) for why in reasons)

    arguments = [*LONG, "--policy", "off"]
    begun = time.monotonic()
    answer(world, *arguments)
    too_short = (time.monotonic() - begun) / 3
    before = ended()
    outcome = program.run(world.pair.verify, *arguments, "--deadline", too_short)
    assert outcome.status == 1 and told(outcome, "DEADLINE_EXCEEDED"), outcome
    wait_until(lambda: ended() == before + 1, "the server ends the generation")


def resumes_with_what_came(program, world):
    first = breaking(begin(), tokens(0, 10, 11), tokens(2, 12))
    second = sending(begin(), tokens(3, 13), tokens(4, 14, 15), end(6, resumed=3))
    with playing(first, second) as (server, address):
        outcome = program.run(address)
    assert (outcome.status, outcome.text) == (0, "[10][11][12][13][14][15]"), outcome
    before, after = server.requests
    assert not before.HasField("resume")
    assert (list(after.resume.token_ids), after.resume.seed) == ([10, 11, 12], SEED), after
    assert after.resume.numerics_id == NUMERICS, after
    after.ClearField("resume")
    assert before == after, "the rest of the request has changed"


def survives_a_new_server(program, world):
    """The server is killed in the middle, and another one is started in its place."""
    arguments = [*LONG, "--temperature", 0.9, "--seed", 11]
    binary = world.binaries / "verify-svc"
    flags = ["--draft", f"http://{world.pair.draft}", *AT_ONCE]
    killed = Service(binary, *flags)
    try:
        address = killed.wait_for_address(GRPC)
        process = program.start(address, *arguments)
        begun = read(process, 200)
    finally:
        killed.kill()
    with running(binary, *flags, listen=address) as restarted:
        restarted.wait_for_address(GRPC)
        outcome = finish(process, begun)
    assert outcome.status == 0, outcome
    assert told(outcome, "again in "), "the server was killed too late"
    assert outcome.text == answer(world, *arguments)["text"], outcome
    (last,) = told(outcome, "FINISH_REASON_LENGTH")
    assert " generated=1000 " in last and " resumed=0 " not in last, last


def ends_where_only_the_end_is_missing(program, world):
    with playing(breaking(begin(3), tokens(0, 10, 11, 12))) as (server, address):
        outcome = program.run(address)
    assert (outcome.status, outcome.text, len(server.requests)) == (0, "[10][11][12]", 1), outcome


def refuses_a_gap(program, world):
    with playing(sending(begin(), tokens(0, 10), tokens(2, 12), end(3))) as (_, address):
        outcome = program.run(address)
    assert outcome.status != 0, outcome


def refuses_half_an_answer(program, world):
    with playing(sending(begin(), tokens(0, 10))) as (_, address):
        outcome = program.run(address)
    assert outcome.status != 0, outcome


def names_the_bad_field(program, world):
    outcome = program.run(world.pair.verify, "--top-p", 1.5)
    assert outcome.status == 1 and told(outcome, "INVALID_ARGUMENT"), outcome
    assert any("top_p" in line for line in told(outcome, "  BadRequest")), outcome


def waits_as_long_as_told(program, world):
    with playing(refusing(RETRY_SECONDS), sending(begin(1), tokens(0, 10), end(1))) as (server, address):
        outcome = program.run(address)
    assert (outcome.status, outcome.text) == (0, "[10]"), outcome
    first, second = server.times
    assert RETRY_SECONDS <= second - first < 5 * RETRY_SECONDS, second - first
    assert told(outcome, "RESOURCE_EXHAUSTED") and told(outcome, "  RetryInfo"), outcome


def outlasts_a_full_server(program, world):
    with running(world.binaries / "verify-svc", "--max-sequences", "1", "--max-queue", "0", *AT_ONCE) as server:
        address, http = server.wait_for_address(GRPC), server.wait_for_address(HTTP)
        # A generation whose answer nobody reads keeps its place. With the least of gRPC's windows, and
        # log-probabilities, it is too large to be sent unread.
        with grpc.insecure_channel(address, [("grpc.http2.bdp_probe", 0)]) as channel:
            occupant = generation_pb2_grpc.GenerationStub(channel).GenerateStream(
                generation_pb2.GenerateRequest(text=PROMPT, max_new_tokens=1000, ignore_eos=True, logprobs=20)
            )
            next(occupant)
            process = program.start(address)
            wait_until(
                lambda: metric(http, "dssd_rejected_requests_total", reason="no_room") > 0, "a refusal"
            )
            occupant.cancel()
            outcome = finish(process)
        refusals = metric(http, "dssd_rejected_requests_total", reason="no_room")
    assert outcome.status == 0 and outcome.text == answer(world)["text"], outcome
    assert len(told(outcome, "RESOURCE_EXHAUSTED")) == refusals, outcome
    assert len(told(outcome, "  RetryInfo")) == refusals, outcome


def traces_each_token(program, world):
    arguments = ["--max-new-tokens", 100, "--ignore-eos", "--policy", "fixed:1:4"]
    names = ["dssd_spec_decode_num_draft_tokens_total", "dssd_spec_decode_num_accepted_tokens_total"]
    expected = answer(world, *arguments)
    before = [metric(world.pair.verify_http, name) for name in names]
    outcome = program.run(world.pair.verify, *arguments, "--trace")
    counted = [metric(world.pair.verify_http, name) - b for name, b in zip(names, before)]

    lines = [line.split() for line in outcome.notes if line[0].isdigit()]
    fates = collections.Counter(line[1] for line in lines)
    assert fates["accepted"] > 0 and fates["refused"] > 0 and fates["corrected"] > 0, fates
    drafted = fates["accepted"] + fates["refused"]
    assert [drafted, fates["accepted"]] == counted, (fates, counted)
    (last,) = told(outcome, "FINISH_REASON_LENGTH")
    assert last.endswith(f" drafted={drafted} accepted={fates['accepted']}"), last
    # The first token is the prompt's: no round gave it.
    committed = [int(line[0]) for line in lines if line[1] != "refused"]
    assert committed == expected["token_ids"][1:]
    for line in lines:
        if line[1] in ("accepted", "refused"):
            assert line[2] == "exit=1" and float(line[3].removeprefix("entropy=")) >= 0, line


def shows_its_token(program, world):
    secrets = world.secrets
    flags = ["--tls-cert", secrets.certificate, "--tls-key", secrets.key, "--token-file", secrets.tokens]
    with running(world.binaries / "verify-svc", *flags, *AT_ONCE) as server:
        address = server.wait_for_address(GRPC)
        stranger = program.run(address, "--tls-ca", secrets.certificate)
        guest = program.run(address, "--tls-ca", secrets.certificate, "--token-file", secrets.tokens)
    assert stranger.status == 1 and told(stranger, "UNAUTHENTICATED"), stranger
    assert guest.status == 0 and guest.text == answer(world)["text"], guest


SCENARIOS = [
    gives_the_text,
    streams,
    cancels,
    keeps_the_deadline,
    is_ended_by_its_deadline,
    resumes_with_what_came,
    survives_a_new_server,
    ends_where_only_the_end_is_missing,
    refuses_a_gap,
    refuses_half_an_answer,
    names_the_bad_field,
    waits_as_long_as_told,
    outlasts_a_full_server,
    traces_each_token,
    shows_its_token,
]
