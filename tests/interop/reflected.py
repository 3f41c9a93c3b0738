"""A gRPC client made of nothing but a server's reflection: no generated stubs, no .proto files."""

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status

CALL_SECONDS = 60


class Reflected:
    """A server, its services and its message types."""

    def __init__(self, address):
        self._channel = grpc.insecure_channel(address)
        self._database = ProtoReflectionDescriptorDatabase(self._channel)
        self._pool = descriptor_pool.DescriptorPool(self._database)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._channel.close()

    def services(self):
        """Full names of all services that the server offers."""
        return set(self._database.get_services())

    def message(self, name, **fields):
        """A new message of the type with this full name."""
        descriptor = self._pool.FindMessageTypeByName(name)
        return message_factory.GetMessageClass(descriptor)(**fields)

    def enum(self, name, value):
        """The number of an enum value."""
        return self._pool.FindEnumTypeByName(name).values_by_name[value].number

    def call(self, service, method, request, **options):
        """Calls a method; `request` is a message, or an iterator of them where the client streams."""
        found = self._pool.FindServiceByName(service).FindMethodByName(method)
        streams = ("unary", "stream")
        kind = f"{streams[found.client_streaming]}_{streams[found.server_streaming]}"
        stub = getattr(self._channel, kind)(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(found.output_type).FromString,
        )
        return stub(request, **({"timeout": CALL_SECONDS} | options))


def error_details(error, kind):
    """The google.rpc detail of this kind, such as `BadRequest`, that an RpcError carries."""
    status = rpc_status.from_call(error)
    assert status is not None, f"{error} carries no details"
    for packed in status.details:
        detail = getattr(error_details_pb2, kind)()
        if packed.Unpack(detail):
            return detail
    raise AssertionError(f"{error} carries no {kind}, but {[d.type_url for d in status.details]}")


def failure(call):
    """The RpcError that `call` ends with."""
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call was expected to fail")
