"""What a client of verify-svc relies on."""

GENERATION = "dssd.v1.Generation"
PROMPT = "Once upon a time there was a little"


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


CHECKS = [
    lists_services,
    is_healthy,
    streams_a_generation,
    drafts_change_nothing,
]
