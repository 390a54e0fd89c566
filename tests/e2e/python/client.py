"""A client of elph-agent that shares no code with it: stubs made by grpcio-tools from proto/, one call, one conference, one stream.

usage: client.py PROTO_DIR SOCKET DOMAIN
Prints what it does and ends with 0, or with the first thing that was not as expected.
"""

import sys
import uuid

import grpc

from common import WAIT, expect, generate, local, refused, stubs, until


def main():
    proto_dir, socket, domain = sys.argv[1:]
    generate(proto_dir)
    call_pb, call_grpc = stubs("call")
    conf_pb, conf_grpc = stubs("conference")
    event_pb, event_grpc = stubs("event")
    channel = local(socket)
    calls = call_grpc.CallServiceStub(channel)
    conferences = conf_grpc.ConferenceServiceStub(channel)
    events = event_grpc.EventServiceStub(channel)

    # A stream from a snapshot; its first messages end with the complete snapshot, which carries a cursor.
    stream = events.Subscribe(event_pb.SubscribeRequest(snapshot=event_pb.StartSnapshot()), timeout=60)
    cursor = next(message.cursor for message in stream if message.snapshot.complete)
    expect("the snapshot ends with a cursor", bool(cursor.epoch), True)

    # One call.
    request = call_pb.MakeCallRequest(request_id=str(uuid.uuid4()), domain=domain, from_alias="1001", to_number="1002")
    call = calls.MakeCall(request, **WAIT).call
    expect("the same request id is the same call", calls.MakeCall(request, **WAIT).call.id, call.id)
    refused("the same id with another request", lambda: calls.MakeCall(call_pb.MakeCallRequest(
        request_id=request.request_id, domain=domain, from_alias="1001", to_number="1003"), **WAIT),
        grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")

    def answered():
        now = calls.GetCall(call_pb.GetCallRequest(call_id=call.id), **WAIT).call
        return now if now.state == call_pb.CALL_STATE_CONNECTED else None

    now = until("the call is answered", answered)
    expect("who answered is named", now.answered_by, "1002")
    leg = call_pb.LegSelector(call_id=call.id, device="1002")
    held = calls.HoldCall(call_pb.HoldCallRequest(request_id=str(uuid.uuid4()), leg=leg), **WAIT).call
    expect("the leg is held", [it.state for it in held.legs if it.device == "1002"], [call_pb.LEG_STATE_HELD])
    calls.RetrieveCall(call_pb.RetrieveCallRequest(request_id=str(uuid.uuid4()), leg=leg), **WAIT)
    ended = calls.ReleaseCall(call_pb.ReleaseCallRequest(request_id=str(uuid.uuid4()), call_id=call.id), **WAIT).call
    expect("the call is over", ended.state, call_pb.CALL_STATE_ENDED)
    seen = []
    for message in stream:
        if message.event.call.id == call.id:
            seen.append(message.event.call.state)
            if seen[-1] == call_pb.CALL_STATE_ENDED:
                break
    expect("the stream told of it in order", sorted(seen), seen)
    stream.cancel()

    # One conference.
    created = conferences.CreateConference(conf_pb.CreateConferenceRequest(
        request_id=str(uuid.uuid4()), domain=domain, name="Python", numbers=["1003", "1004", "1005"]), **WAIT).conference

    def gathered():
        now = conferences.GetConference(conf_pb.GetConferenceRequest(conference_id=created.id), **WAIT).conference
        return now if now.connected_count == 3 else None

    now = until("three are in", gathered)
    refused("mute all must say whether they may unmute", lambda: conferences.MuteAll(conf_pb.MuteAllRequest(
        request_id=str(uuid.uuid4()), conference_id=created.id), **WAIT), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    muted = conferences.MuteAll(conf_pb.MuteAllRequest(
        request_id=str(uuid.uuid4()), conference_id=created.id, may_unmute_themselves=True), **WAIT).conference
    expect("all are muted", all(it.muted for it in muted.participants if it.role == conf_pb.PARTICIPANT_ROLE_PARTICIPANT), True)
    refused("a stale version", lambda: conferences.LockConference(conf_pb.LockConferenceRequest(
        request_id=str(uuid.uuid4()), conference_id=created.id, expected_version=1), **WAIT),
        grpc.StatusCode.ABORTED, "VERSION_CHANGED")
    over = conferences.EndConference(conf_pb.EndConferenceRequest(request_id=str(uuid.uuid4()), conference_id=created.id), **WAIT)
    expect("the conference is over", over.conference.state, conf_pb.CONFERENCE_STATE_ENDED)

    # Resume after the cursor: everything since, without a snapshot.
    resumed = events.Subscribe(event_pb.SubscribeRequest(after=cursor), timeout=10)
    kinds = set()
    for message in resumed:
        kinds.add(message.WhichOneof("message"))
        if message.event.conference.id == created.id and message.event.conference.state == conf_pb.CONFERENCE_STATE_ENDED:
            break
    expect("resumed by events alone", kinds, {"event"})
    resumed.cancel()

    details = refused("wrong fields are named", lambda: calls.MakeCall(call_pb.MakeCallRequest(), **WAIT),
                      grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    expect("among them the domain", "domain" in [it.field for it in details["BadRequest"].field_violations], True)


if __name__ == "__main__":
    main()
