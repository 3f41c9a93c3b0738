"""The part of grpcurl that docs/clients/grpcurl.md uses: its flags, its output, its exit statuses."""

import argparse
import json
import pathlib
import re
import sys
import tempfile

import grpc
import proto_text
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2  # noqa: F401, whose types `Any` finds by name
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status
from grpc_tools import protoc

# Version 1, whose messages are those of v1alpha, which `reflected` speaks.
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
FIRST_STATUS = 64
WHOLE = re.compile(r"(: -?\d+)\.0(?=,?$)", re.MULTILINE)


def parse():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-plaintext", action="store_true", required=True)
    parser.add_argument("-d", dest="data", default="{}")
    parser.add_argument("-max-time", type=float)
    parser.add_argument("-import-path")
    parser.add_argument("-proto")
    parser.add_argument("address")
    parser.add_argument("words", nargs="+")
    return parser.parse_args()


class Reflection:
    """The files of a server, by reflection."""

    def __init__(self, channel):
        self._ask = channel.stream_stream(
            REFLECTION,
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )

    def _answer(self, **question):
        request = reflection_pb2.ServerReflectionRequest(**question)
        answer = next(iter(self._ask(iter([request]))))
        if answer.HasField("error_response"):
            sys.exit(f"Error: {answer.error_response.error_message}")
        return answer

    def services(self):
        return sorted(service.name for service in self._answer(list_services="").list_services_response.service)

    def files(self, symbol):
        """The file with a symbol, and all that it imports, those first."""
        found = {}

        def take(answer):
            for serialized in answer.file_descriptor_response.file_descriptor_proto:
                file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
                for name in file.dependency:
                    if name not in found:
                        take(self._answer(file_by_filename=name))
                found[file.name] = file

        take(self._answer(file_containing_symbol=symbol))
        return list(found.values())


def compiled_files(import_path, file):
    """A file of the folder, and all that it imports, those first."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder, "set")
        status = protoc.main(["", f"-I{import_path}", "--include_imports", f"--descriptor_set_out={out}", file])
        assert status == 0
        return list(descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file)


def json_values(text_parts):
    """The JSON values that stand one behind the other, each as soon as it is there."""
    decoder, text = json.JSONDecoder(), ""
    for part in text_parts:
        text = (text + part).lstrip()
        while text:
            try:
                value, end = decoder.raw_decode(text)
            except json.JSONDecodeError:
                break
            yield value
            text = text[end:].lstrip()
    assert not text, f"not JSON: {text}"


def describe(files, symbol):
    for file in files:
        if text := proto_text.of_symbol(file, symbol):
            return text
    sys.exit(f"Error: Symbol not found: {symbol}")


def call(channel, files, method_name, arguments):
    """Calls a method and prints its answers. Returns the exit status."""
    pool = descriptor_pool.DescriptorPool()
    for file in files:
        pool.Add(file)
    service, name = method_name.rsplit("/", 1)
    method = pool.FindServiceByName(service).FindMethodByName(name)
    request, answer = (message_factory.GetMessageClass(t) for t in (method.input_type, method.output_type))
    stub = channel.stream_stream(f"/{method_name}", request.SerializeToString, answer.FromString)
    parts = sys.stdin if arguments.data == "@" else [arguments.data]
    requests = (json_format.ParseDict(value, request()) for value in json_values(parts))
    try:
        for message in stub(requests, timeout=arguments.max_time):
            # Go writes a whole number without a fraction.
            print(WHOLE.sub(r"\1", json_format.MessageToJson(message)), flush=True)
    except grpc.RpcError as error:
        return show_error(error)
    return 0


def show_error(error):
    code = error.code()
    name = "".join(word.capitalize() for word in code.name.split("_"))
    print(f"ERROR:\n  Code: {name}\n  Message: {error.details()}", file=sys.stderr)
    status = rpc_status.from_call(error)
    for number, detail in enumerate(status.details if status else [], 1):
        if number == 1:
            print("  Details:", file=sys.stderr)
        print(f"  {number})\t{json_format.MessageToJson(detail, indent=None)}", file=sys.stderr)
    return FIRST_STATUS + code.value[0]


def main():
    arguments = parse()
    with grpc.insecure_channel(arguments.address) as channel:
        match arguments.words:
            case ["list"]:
                print(*Reflection(channel).services(), sep="\n")
                return 0
            case ["describe", symbol]:
                print(describe(Reflection(channel).files(symbol), symbol))
                return 0
            case [method]:
                if arguments.proto:
                    files = compiled_files(arguments.import_path, arguments.proto)
                else:
                    files = Reflection(channel).files(method.rsplit("/", 1)[0])
                return call(channel, files, method, arguments)
    raise SystemExit(f"unknown words {arguments.words}")


if __name__ == "__main__":
    sys.exit(main())
