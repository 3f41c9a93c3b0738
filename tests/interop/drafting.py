"""A verifier typed by hand: the drafting protocol, spoken to draft-svc by a foreign client."""

import queue

import grpc

from generation import GENERATION, PROMPT
from reflected import error_details, failure

DRAFTING = "dssd.v1.Drafting"
NEW_TOKENS = 48
MAX_DRAFT_TOKENS = 4


class Reference:
    """A greedy generation of verify-svc: what a correct verifier commits."""

    def __init__(self, verifier):
        self.model = verifier.call(
            GENERATION, "GetModelInfo", verifier.message("dssd.v1.GetModelInfoRequest")
        )
        request = verifier.message("dssd.v1.TokenizeRequest", text=PROMPT)
        self.prompt = list(verifier.call(GENERATION, "Tokenize", request).token_ids)
        prompt = verifier.message("dssd.v1.TokenIds", ids=self.prompt)
        request = verifier.message(
            "dssd.v1.GenerateRequest", token_ids=prompt, max_new_tokens=NEW_TOKENS, ignore_eos=True
        )
        answer = verifier.call(GENERATION, "Generate", request)
        assert len(answer.token_ids) == NEW_TOKENS
        self.tokens = self.prompt + list(answer.token_ids)
        self.sampling = answer.prompt_info.sampling

    def open(self, drafter, **changes):
        """The Open of this generation, right after the prompt."""
        fields = {
            "request_id": "typed-by-hand",
            "checkpoint_fingerprint": self.model.checkpoint_fingerprint,
            "tokenizer_hash": self.model.tokenizer_hash,
            "vocabulary_size": self.model.vocabulary_size,
            "token_ids": self.prompt,
            "prompt_length": len(self.prompt),
            # Both servers have their own descriptors, hence the way over bytes.
            "sampling": type(drafter.message("dssd.v1.SamplingSettings")).FromString(
                self.sampling.SerializeToString()
            ),
            "speculation": drafter.message(
                "dssd.v1.Speculation", policy=f"fixed:1:{MAX_DRAFT_TOKENS}"
            ),
        }
        opening = drafter.message("dssd.v1.Open", **(fields | changes))
        return drafter.message("dssd.v1.VerifierMessage", open=opening)


class Stream:
    """One Draft stream."""

    def __init__(self, drafter):
        self._drafter = drafter
        self._outgoing = queue.SimpleQueue()
        self._epoch = 0
        self.incoming = drafter.call(DRAFTING, "Draft", iter(self._outgoing.get, None))

    def send(self, message):
        self._outgoing.put(message)

    def half_close(self):
        self._outgoing.put(None)

    def receive(self, kind):
        message = next(self.incoming)
        assert message.WhichOneof("message") == kind, message
        return getattr(message, kind)

    def commit(self, first_position, tokens, max_draft_tokens):
        """Commits `tokens` and returns the proposal that follows them."""
        self._epoch += 1
        commit = self._drafter.message(
            "dssd.v1.Commit",
            epoch=self._epoch,
            first_position=first_position,
            token_ids=tokens,
            kv_position=first_position + len(tokens) - 1,
            max_draft_tokens=max_draft_tokens,
        )
        self.send(self._drafter.message("dssd.v1.VerifierMessage", commit=commit))
        proposal = self.receive("proposal")
        assert proposal.epoch == self._epoch
        assert proposal.base_position == first_position + len(tokens)
        assert len(proposal.tokens) <= max_draft_tokens
        return [token.token_id for token in proposal.tokens]


def accepted_prefix(drafted, truth):
    """How many drafted tokens are right, up to the first wrong one."""
    wrong = (i for i, (a, b) in enumerate(zip(drafted, truth)) if a != b)
    return next(wrong, min(len(drafted), len(truth)))


def describes_its_drafter(verifier, drafter):
    assert {DRAFTING, "grpc.health.v1.Health"} <= drafter.services(), drafter.services()
    request = drafter.message("dssd.v1.GetDrafterInfoRequest")
    info = drafter.call(DRAFTING, "GetDrafterInfo", request)
    model = Reference(verifier).model
    assert info.checkpoint_fingerprint == model.checkpoint_fingerprint
    assert info.tokenizer_hash == model.tokenizer_hash
    layers = list(info.exit_layers)
    assert layers == sorted(set(layers)) and 0 < layers[0] and layers[-1] < model.layer_count, layers


def speaks_the_drafting_protocol(verifier, drafter):
    reference = Reference(verifier)
    stream = Stream(drafter)
    stream.send(reference.open(drafter))
    ready = stream.receive("ready")
    assert ready.held_position == len(reference.prompt) - 1, ready
    assert ready.exit_layers

    committed, accepted, rounds = len(reference.prompt), 0, 0
    newest = []
    while (remaining := len(reference.tokens) - committed) > 1:
        drafted = stream.commit(
            committed - len(newest), newest, min(MAX_DRAFT_TOKENS, remaining - 1)
        )
        assert drafted, "policy `fixed` always drafts"
        right = accepted_prefix(drafted, reference.tokens[committed:])
        newest = reference.tokens[committed : committed + right + 1]
        committed += len(newest)
        accepted += right
        rounds += 1
    assert accepted > 0, f"no drafted token was right in {rounds} rounds"

    stream.half_close()
    assert list(stream.incoming) == []
    assert stream.incoming.code() == grpc.StatusCode.OK


def refuses_another_checkpoint(verifier, drafter):
    stream = Stream(drafter)
    stream.send(Reference(verifier).open(drafter, checkpoint_fingerprint="0" * 64))
    error = failure(lambda: next(stream.incoming))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
    violations = error_details(error, "PreconditionFailure").violations
    assert [violation.subject for violation in violations] == ["checkpoint_fingerprint"], violations


def refuses_an_impossible_commit(verifier, drafter):
    stream = Stream(drafter)
    reference = Reference(verifier)
    stream.send(reference.open(drafter))
    stream.receive("ready")
    outside = reference.model.vocabulary_size
    error = failure(lambda: stream.commit(len(reference.prompt), [outside], 1))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    violations = error_details(error, "BadRequest").field_violations
    assert [violation.field for violation in violations] == ["commit.token_ids"], violations


CHECKS = [
    describes_its_drafter,
    speaks_the_drafting_protocol,
    refuses_another_checkpoint,
    refuses_an_impossible_commit,
]
