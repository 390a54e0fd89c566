"""grpcio over mutual TLS: who is let in, with which scopes, and what everybody else sees.

usage: tls.py PROTO_DIR ADDRESS CERTIFICATES_DIR DOMAIN OTHER_DOMAIN
The directory holds ca.pem and, for each client, NAME.pem and NAME.key.
"""

import pathlib
import sys
import time
import uuid

import grpc

from common import WAIT, error_of, expect, generate, refused, stubs, until

# The name in the agent's certificate: the tests reach it by address, a real client by this name.
SERVER = "agent.example"


def main():
    proto_dir, address, directory, domain, other_domain = sys.argv[1:]
    generate(proto_dir)
    call_pb, call_grpc = stubs("call")
    conf_pb, conf_grpc = stubs("conference")
    event_pb, event_grpc = stubs("event")
    directory = pathlib.Path(directory)

    def pem(name):
        return (directory / name).read_bytes()

    def channel(client=None, ca="ca.pem", name=SERVER):
        key, certificate = (pem(f"{client}.key"), pem(f"{client}.pem")) if client else (None, None)
        credentials = grpc.ssl_channel_credentials(pem(ca), key, certificate)
        return grpc.secure_channel(address, credentials, options=[("grpc.ssl_target_name_override", name)])

    every_call = call_pb.ListCallsRequest(domain=domain)
    every_conference = conf_pb.ListConferencesRequest(domain=domain)

    def make(number="1002"):
        return call_pb.MakeCallRequest(request_id=str(uuid.uuid4()), domain=domain, from_alias="1001", to_number=number)

    # All scopes of one domain: a call and a conference, and what a stream tells of them.
    suite = channel("suite")
    calls, conferences = call_grpc.CallServiceStub(suite), conf_grpc.ConferenceServiceStub(suite)
    stream = event_grpc.EventServiceStub(suite).Subscribe(event_pb.SubscribeRequest(snapshot=event_pb.StartSnapshot()), timeout=60)
    expect("a stream begins with its snapshot", next(iter(stream)).WhichOneof("message"), "snapshot")
    call = calls.MakeCall(make(), **WAIT).call

    def answered():
        now = calls.GetCall(call_pb.GetCallRequest(call_id=call.id), **WAIT).call
        return now.answered_by if now.state == call_pb.CALL_STATE_CONNECTED else None

    expect("the call is answered", until("an answer", answered), "1002")
    created = conferences.CreateConference(conf_pb.CreateConferenceRequest(
        request_id=str(uuid.uuid4()), domain=domain, name="Over TLS", numbers=["1003", "1004"]), **WAIT).conference
    listed = conferences.ListConferences(every_conference, **WAIT).conferences
    expect("the conference is listed", [(it.id, it.name) for it in listed], [(created.id, "Over TLS")])
    ended = calls.ReleaseCall(call_pb.ReleaseCallRequest(request_id=str(uuid.uuid4()), call_id=call.id), **WAIT).call
    expect("the call is over", ended.state, call_pb.CALL_STATE_ENDED)
    seen = next(message.event for message in stream if message.event.call.state == call_pb.CALL_STATE_ENDED)
    expect("the stream tells of it", (seen.domain, seen.call.id), (domain, call.id))
    stream.cancel()

    # Let in, but not for this.
    refused("a domain that the grant lacks", lambda: calls.ListCalls(call_pb.ListCallsRequest(domain=other_domain), **WAIT),
            grpc.StatusCode.PERMISSION_DENIED, "DOMAIN_NOT_GRANTED")
    reader = channel("reader")
    readers_calls = call_grpc.CallServiceStub(reader)
    listed = readers_calls.ListCalls(call_pb.ListCallsRequest(domain=domain, states=[call_pb.CALL_STATE_ENDED]), **WAIT).calls
    expect("who may read reads", call.id in [it.id for it in listed], True)
    denied = grpc.StatusCode.PERMISSION_DENIED
    refused("a scope to read does not change anything", lambda: readers_calls.MakeCall(make(), **WAIT), denied, "MISSING_SCOPE")
    refused("nor is it a scope for conferences", lambda: conf_grpc.ConferenceServiceStub(reader).ListConferences(
        every_conference, **WAIT), denied, "MISSING_SCOPE")
    refused("nor for events", lambda: next(event_grpc.EventServiceStub(reader).Subscribe(event_pb.SubscribeRequest(), timeout=10)),
            denied, "MISSING_SCOPE")
    stranger = channel("stranger")
    refused("a good certificate that no grant names", lambda: call_grpc.CallServiceStub(stranger).ListCalls(every_call, **WAIT),
            grpc.StatusCode.UNAUTHENTICATED, "CALLER_UNKNOWN")

    # Not let in: the handshake fails, soon and not at the deadline.
    plaintext = grpc.insecure_channel(address)
    outside = {
        "no certificate": channel(),
        "a certificate of an unknown authority": channel("forged"),
        "no TLS": plaintext,
        "an agent whose authority the client does not know": channel("suite", ca="forged-ca.pem"),
        "an agent of another name": channel("suite", name="other.example"),
    }
    for what, closed in outside.items():
        began = time.monotonic()
        error = error_of(what, lambda: call_grpc.CallServiceStub(closed).ListCalls(every_call, timeout=30))
        expect(f"{what}: {error.details()[:60]!r}…", error.code(), grpc.StatusCode.UNAVAILABLE)
        expect(f"{what}: at once", time.monotonic() - began < 10, True)

    # None of that has harmed anybody.
    expect("the others go on", conferences.ListConferences(every_conference, **WAIT).conferences[0].id, created.id)
    for closing in [suite, reader, stranger, *outside.values()]:
        closing.close()


if __name__ == "__main__":
    main()
