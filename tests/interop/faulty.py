"""The Python client with a fault, to prove that the scenarios find it. Arguments: the fault, then the client's."""

import asyncio
import builtins
import io
import sys

import client


def without(attribute, value):
    """Arguments are parsed as if one of them had not been given."""
    parse = client.parse

    def parse_without(command_line):
        arguments = parse(command_line)
        setattr(arguments, attribute, value)
        return arguments

    client.parse = parse_without


def other_text():
    parse = client.parse

    def parse_other(command_line):
        arguments = parse(command_line)
        arguments.prompt += "!"
        return arguments

    client.parse = parse_other


def late_text():
    kept = io.StringIO()

    def keep(*values, end="\n", file=None, flush=False):
        if file:
            file.write(f"{values[0]}{end}")
        else:
            kept.write("".join(values) + end)

    client.print = keep
    client.exit = lambda: builtins.print(kept.getvalue(), end="")


def no_cancel():
    attempt = client.attempt

    async def read_on(stub, generation, arguments, timeout, again):
        arguments.cancel_after = None
        await attempt(stub, generation, arguments, timeout, again)
        return False

    client.attempt = read_on


def no_deadline():
    without("deadline", 600)


def silent_deadline():
    """The program gives up in time, but the server is not told."""
    attempt, generate = client.attempt, client.generate

    async def attempt_for_ever(stub, generation, arguments, timeout, again):
        return await attempt(stub, generation, arguments, None, again)

    async def generate_in_time(stub, generation, arguments):
        try:
            async with asyncio.timeout(arguments.deadline):
                return await generate(stub, generation, arguments)
        except TimeoutError:
            client.note("DEADLINE_EXCEEDED")
            sys.exit(1)

    client.attempt, client.generate = attempt_for_ever, generate_in_time


def no_resume():
    client.Generation.request = lambda self: self._request


def another_seed():
    request = client.Generation.request

    def reseeded(self):
        changed = request(self)
        if changed.HasField("resume"):
            changed.resume.seed += 1
        return changed

    client.Generation.request = reseeded


def resumes_the_finished():
    client.Generation.is_complete = lambda self: False


def blind_to_gaps():
    client.Generation.take = lambda self, tokens: self.token_ids.extend(tokens.token_ids)


def none():
    pass


def takes_half():
    client.Generation.is_complete = lambda self: True


def no_details():
    client.error_details = lambda error: {}


def impatient():
    client.pause = lambda error, failures: 0.05


def gives_up():
    client.MOST_FAILURES = 0


def no_refused():
    show_round = client.show_round

    def show_accepted(trace):
        accepted = [token for token in trace.drafted if token.accepted]
        del trace.drafted[:]
        trace.drafted.extend(accepted)
        show_round(trace)

    client.show_round = show_accepted


def no_token():
    client.authorization = lambda arguments: []


# The fault, and the scenario that must find it.
FAULTS = {
    "other_text": "gives_the_text",
    "late_text": "streams",
    "no_cancel": "cancels",
    "no_deadline": "is_ended_by_its_deadline",
    "silent_deadline": "keeps_the_deadline",
    "no_resume": "resumes_with_what_came",
    "another_seed": "survives_a_new_server",
    "resumes_the_finished": "ends_where_only_the_end_is_missing",
    "blind_to_gaps": "refuses_a_gap",
    "takes_half": "refuses_half_an_answer",
    "no_details": "names_the_bad_field",
    "impatient": "waits_as_long_as_told",
    "gives_up": "outlasts_a_full_server",
    "no_refused": "traces_each_token",
    "no_token": "shows_its_token",
}

if __name__ == "__main__":
    fault, *command_line = sys.argv[1:]
    globals()[fault]()
    status = asyncio.run(client.run(client.parse(command_line)))
    getattr(client, "exit", lambda: None)()
    sys.exit(status)
