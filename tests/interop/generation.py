"""What a client of verify-svc relies on."""

import time

import grpc

from reflected import error_details, failure

GENERATION = "dssd.v1.Generation"
PROMPT = "Once upon a time there was a little"
FREED_SECONDS = 20


def generate_request(verifier, max_new_tokens, **fields):
    return verifier.message(
        "dssd.v1.GenerateRequest", text=PROMPT, max_new_tokens=max_new_tokens, **fields
    )


def lists_services(verifier):
    expected = {GENERATION, "grpc.health.v1.Health"}
    assert expected <= verifier.services(), verifier.services()


def is_healthy(verifier):
    for name in ("", GENERATION):
        request = verifier.message("grpc.health.v1.HealthCheckRequest", service=name)
        status = verifier.call("grpc.health.v1.Health", "Check", request, wait_for_ready=True).status
        serving = verifier.enum("grpc.health.v1.HealthCheckResponse.ServingStatus", "SERVING")
        assert status == serving, f"{name!r} has status {status}"


def streams_a_generation(verifier):
    request = generate_request(verifier, 40, temperature=0.8, seed=7)
    first, *middle, last = verifier.call(GENERATION, "GenerateStream", request)
    assert first.WhichOneof("event") == "prompt_info", first
    assert first.prompt_info.sampling.seed == 7
    assert first.prompt_info.numerics_id
    assert last.WhichOneof("event") == "finish_info", last

    ids, text = [], ""
    for message in middle:
        assert message.WhichOneof("event") == "tokens", message
        assert message.tokens.first_index == len(ids)
        ids += message.tokens.token_ids
        text += message.tokens.text
    assert text.strip(), "no text came"
    assert len(ids) == last.finish_info.generated_token_count

    whole = verifier.call(GENERATION, "Generate", request)
    assert (list(whole.token_ids), whole.text) == (ids, text)


def drafts_change_nothing(verifier):
    answers = []
    for mode in ("SPECULATION_MODE_OFF", "SPECULATION_MODE_AUTO"):
        speculation = verifier.message(
            "dssd.v1.Speculation", mode=verifier.enum("dssd.v1.SpeculationMode", mode)
        )
        request = generate_request(verifier, 60, temperature=1.0, seed=3, speculation=speculation)
        answers.append(list(verifier.call(GENERATION, "Generate", request).token_ids))
    plain, speculated = answers
    assert plain and plain == speculated


def cancels_a_generation(verifier):
    request = generate_request(verifier, 600, ignore_eos=True)
    stream = verifier.call(GENERATION, "GenerateStream", request)
    received = [next(stream), next(stream)]
    stream.cancel()
    error = failure(lambda: received.extend(stream))
    assert error.code() == grpc.StatusCode.CANCELLED, error
    assert not any(m.WhichOneof("event") == "finish_info" for m in received)
    wait_until_idle(verifier)


def wait_until_idle(verifier):
    """The server stops the work of a cancelled call and takes its memory back."""
    deadline = time.monotonic() + FREED_SECONDS
    while time.monotonic() < deadline:
        load = verifier.call(GENERATION, "GetLoad", verifier.message("dssd.v1.GetLoadRequest"))
        if load.running == 0 and load.free_kv_blocks == load.kv_blocks:
            return
    raise AssertionError(f"the server is still busy: {load}")


def names_the_bad_field(verifier):
    request = generate_request(verifier, 4, top_p=1.5)
    error = failure(lambda: verifier.call(GENERATION, "Generate", request))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    violations = error_details(error, "BadRequest").field_violations
    assert [violation.field for violation in violations] == ["top_p"], violations
    assert violations[0].description


CHECKS = [
    lists_services,
    is_healthy,
    streams_a_generation,
    drafts_change_nothing,
    cancels_a_generation,
    names_the_bad_field,
]
