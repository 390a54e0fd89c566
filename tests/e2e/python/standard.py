"""gRPC's own services with gRPC's own clients: grpc.health.v1 with grpcio-health-checking, server reflection with grpcio-reflection and a
call made of nothing but what it describes.

usage: standard.py SOCKET DOMAIN
Prints each state that it is told while it watches; whoever runs it takes the switch away and gives it back.
"""

import sys

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from common import WAIT, error_of, expect, local

OURS = ["CallService", "ConferenceService", "EventService", "DirectoryService", "PushService", "AgentService"]


def health(channel):
    stub = health_pb2_grpc.HealthStub(channel)

    def ask(name):
        return health_pb2.HealthCheckRequest(service=name)

    for name in ["", *(f"elph.agent.v1.{name}" for name in OURS)]:
        expect(f"the health of {name!r}", stub.Check(ask(name), **WAIT).status, health_pb2.HealthCheckResponse.SERVING)
    error = error_of("the health of nothing", lambda: stub.Check(ask("elph.agent.v1.NoSuchService"), **WAIT))
    expect("the health of nothing", error.code(), grpc.StatusCode.NOT_FOUND)

    # To watch what is not there is no error: it could come.
    nothing = stub.Watch(ask("elph.agent.v1.NoSuchService"), timeout=60)
    expect("watching nothing", next(nothing).status, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
    names = health_pb2.HealthCheckResponse.ServingStatus
    told = []
    for answer in stub.Watch(ask("elph.agent.v1.CallService"), timeout=60):
        told.append(names.Name(answer.status))
        print(f"told {told[-1]}", flush=True)
        if len(told) == 3:
            break
    expect("the switch went and came back", told, ["SERVING", "NOT_SERVING", "SERVING"])
    expect("watching nothing goes on", nothing.is_active(), True)
    nothing.cancel()


def reflection(channel, domain):
    database = ProtoReflectionDescriptorDatabase(channel)
    listed = set(database.get_services())
    missing = {f"elph.agent.v1.{name}" for name in OURS} | {"grpc.health.v1.Health"}
    expect("reflection lists every service", missing - listed, set())
    pool = descriptor_pool.DescriptorPool(database)
    for name in OURS:
        methods = pool.FindServiceByName(f"elph.agent.v1.{name}").methods
        expect(f"{name} is described, {len(methods)} methods", len(methods) > 0, True)
    method = pool.FindServiceByName("elph.agent.v1.DirectoryService").methods_by_name["ListDomains"]
    ask, answer = (message_factory.GetMessageClass(it) for it in (method.input_type, method.output_type))
    call = channel.unary_unary("/elph.agent.v1.DirectoryService/ListDomains", ask.SerializeToString, answer.FromString)
    expect("a call without generated code", domain in str(json_format.MessageToDict(call(ask(), **WAIT))), True)


def main():
    socket, domain = sys.argv[1:]
    channel = local(socket)
    reflection(channel, domain)
    health(channel)


if __name__ == "__main__":
    main()
