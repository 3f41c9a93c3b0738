"""Checks that docs/protocol.md is what the comments of the .proto files say; with `update` makes it so."""

import pathlib
import sys
import tempfile

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "proto/proto"
PAGE = ROOT / "docs/protocol.md"
ORDER = ("generation", "server", "drafting")
HEAD = """# Protocol reference

Made from the comments in [proto/proto/dssd/v1](../proto/proto/dssd/v1) by `tests/docs/book update`; change them there.
All names are in the package `dssd.v1`. [Calling it](clients/README.md) shows how to use them.
"""

File = descriptor_pb2.FileDescriptorProto
Message = descriptor_pb2.DescriptorProto
Field = descriptor_pb2.FieldDescriptorProto
Enum = descriptor_pb2.EnumDescriptorProto
Service = descriptor_pb2.ServiceDescriptorProto


def number(of, name):
    return of.DESCRIPTOR.fields_by_name[name].number


def compiled():
    """Every file with the places of its comments."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "set"
        files = [f"dssd/v1/{name}.proto" for name in ORDER]
        flags = ["protoc", f"-I{FOLDER}", "--include_source_info", f"--descriptor_set_out={out}"]
        if protoc.main(flags + files) != 0:
            sys.exit("the .proto files do not compile")
        described = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    by_name = {file.name: file for file in described}
    return [by_name[name] for name in files]


class Page:
    """The Markdown of one .proto file."""

    def __init__(self, file):
        self.file, self.lines = file, []
        places = file.source_code_info.location
        self._comments = {tuple(place.path): place for place in places}

    def text(self):
        name = pathlib.PurePath(self.file.name).name
        about = self._comments[(number(File, "syntax"),)].leading_detached_comments
        self.lines += [f"## {name}", "", *paragraphs(about[0]), ""]
        for kind, write in (("service", self._service), ("message_type", self._message), ("enum_type", self._enum)):
            for index, item in enumerate(getattr(self.file, kind)):
                write(item, (number(File, kind), index))
        return "\n".join(self.lines)

    def _comment(self, path):
        comment = self._comments[path].leading_comments
        if not comment.strip():
            sys.exit(f"{self.file.name}: {path} has no comment")
        return comment

    def _cell(self, path):
        return " ".join(self._comment(path).split()).replace("|", "\\|")

    def _begin(self, kind, item, path):
        self.lines += [f"### {kind} {item.name}", "", *paragraphs(self._comment(path)), ""]

    def _service(self, service, path):
        self._begin("service", service, path)
        self.lines += ["| call | request | answer | meaning |", "|---|---|---|---|"]
        for index, call in enumerate(service.method):
            ask = stream(call.client_streaming) + link(call.input_type)
            answer = stream(call.server_streaming) + link(call.output_type)
            about = self._cell((*path, number(Service, "method"), index))
            self.lines.append(f"| `{call.name}` | {ask} | {answer} | {about} |")
        self.lines.append("")

    def _message(self, message, path):
        self._begin("message", message, path)
        if not message.field:
            return
        maps = {entry.name: entry for entry in message.nested_type}
        for index, oneof in enumerate(message.oneof_decl):
            # The compiler makes one without a comment for each optional field.
            place = self._comments.get((*path, number(Message, "oneof_decl"), index))
            if place and place.leading_comments:
                self.lines += [f"Oneof `{oneof.name}`: {' '.join(place.leading_comments.split())}", ""]
        self.lines += ["| field | no. | type | meaning |", "|---|---|---|---|"]
        for index, field in enumerate(message.field):
            about = self._cell((*path, number(Message, "field"), index))
            if field.HasField("oneof_index") and not field.proto3_optional:
                about = f"One of `{message.oneof_decl[field.oneof_index].name}`: {about}"
            self.lines.append(f"| `{field.name}` | {field.number} | {kind(field, maps)} | {about} |")
        self.lines.append("")

    def _enum(self, enum, path):
        self._begin("enum", enum, path)
        self.lines += ["| value | no. | meaning |", "|---|---|---|"]
        for index, value in enumerate(enum.value):
            about = self._cell((*path, number(Enum, "value"), index))
            self.lines.append(f"| `{value.name}` | {value.number} | {about} |")
        self.lines.append("")


def paragraphs(comment):
    return [line.strip() for line in comment.strip().split("\n")]


def stream(streams):
    return "stream of " if streams else ""


def link(name):
    """The type's name, with a link to its section."""
    short = name.rpartition(".")[2]
    sections = {name: kind for kind, name in SECTIONS}
    return f"[{short}](#{sections[short]}-{short.lower()})"


def kind(field, maps):
    """The type of a field, as a person says it."""
    named = field.type_name.rpartition(".")[2]
    if named in maps:
        key, value = maps[named].field
        return f"map of {kind(key, {})} to {kind(value, {})}"
    if field.type_name:
        told = link(field.type_name)
    else:
        told = Field.Type.Name(field.type).removeprefix("TYPE_").lower()
    if field.label == Field.LABEL_REPEATED:
        return f"repeated {told}"
    return f"optional {told}" if field.proto3_optional else told


FILES = compiled()
SECTIONS = [("message", m.name) for file in FILES for m in file.message_type]
SECTIONS += [("enum", e.name) for file in FILES for e in file.enum_type]


def main(arguments):
    page = HEAD + "\n" + "\n".join(Page(file).text() for file in FILES).rstrip() + "\n"
    if arguments == ["update"]:
        PAGE.write_text(page)
    if not PAGE.exists() or PAGE.read_text() != page:
        sys.exit("docs/protocol.md is not what the .proto files say: run tests/docs/book update")


if __name__ == "__main__":
    main(sys.argv[1:])
