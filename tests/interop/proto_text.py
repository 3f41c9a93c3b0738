"""Messages and services in the language of .proto files, with their comments, as grpcurl writes them."""

from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto as File

# Field numbers of descriptor.proto, of which paths to comments consist.
MESSAGES, SERVICES = File.MESSAGE_TYPE_FIELD_NUMBER, File.SERVICE_FIELD_NUMBER
FIELDS = METHODS = 2
MESSAGE_TYPES = (Field.TYPE_MESSAGE, Field.TYPE_ENUM)


def of_symbol(file, symbol):
    """The text of a message or service of this file; None if it has none of this name."""
    comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
    for kind, number, items, body in (
        ("message", MESSAGES, file.message_type, message_lines),
        ("service", SERVICES, file.service, service_lines),
    ):
        for index, item in enumerate(items):
            if f"{file.package}.{item.name}" == symbol:
                path = (number, index)
                lines = body(item, path, comments)
                head = [f"{symbol} is a {kind}:", *comment(comments, path, "")]
                return "\n".join([*head, f"{kind} {item.name} {{", *lines, "}"])
    return None


def comment(comments, path, indent):
    return [f"{indent}//{line}" for line in comments.get(path, "").splitlines()]


def message_lines(message, path, comments):
    lines = []
    for index, field in enumerate(message.field):
        lines += comment(comments, (*path, FIELDS, index), "  ")
        lines.append(f"  {label(field)}{type_name(field)} {field.name} = {field.number};")
    return lines


def label(field):
    if field.proto3_optional:
        return "optional "
    return "repeated " if field.label == Field.LABEL_REPEATED else ""


def type_name(field):
    if field.type in MESSAGE_TYPES:
        return field.type_name
    return Field.Type.Name(field.type).removeprefix("TYPE_").lower()


def service_lines(service, path, comments):
    lines = []
    for index, method in sorted(enumerate(service.method), key=lambda numbered: numbered[1].name):
        lines += comment(comments, (*path, METHODS, index), "  ")
        sides = (
            ("stream " if streams else "") + name
            for streams, name in (
                (method.client_streaming, method.input_type),
                (method.server_streaming, method.output_type),
            )
        )
        lines.append("  rpc {} ( {} ) returns ( {} );".format(method.name, *sides))
    return lines
