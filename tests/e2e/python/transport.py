"""How the agent's HTTP/2 gets along with grpcio's: one scenario at a time.

usage: transport.py SCENARIO PROTO_DIR SOCKET METRICS_URL DOMAIN
"""

import sys
import threading
import urllib.request

import grpc

import wire
from common import WAIT, error_of, expect, generate, local, refused, stubs, until


class Agent:
    """The stubs, and what the agent counts."""

    def __init__(self, proto_dir, socket, metrics, domain):
        generate(proto_dir)
        self.socket, self.metrics, self.domain = socket, metrics, domain
        self.call_pb, self.call_grpc = stubs("call")
        self.event_pb, self.event_grpc = stubs("event")

    def metric(self, sample):
        with urllib.request.urlopen(self.metrics, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        values = [float(line.rsplit(" ", 1)[1]) for line in lines if line.rsplit(" ", 1)[0] == sample]
        return values[0] if values else 0.0

    def ended(self, method, code):
        """How many requests of a method have ended so."""
        return self.metric(f'elph_agent_grpc_requests_total{{method="{method}",code="{code}"}}')

    def open_streams(self, wanted):
        until(f"the agent has {wanted} open streams", lambda: self.metric("elph_agent_event_subscribers") == wanted)

    def subscribe(self, channel, **more):
        stub = self.event_grpc.EventServiceStub(channel)
        return stub.Subscribe(self.event_pb.SubscribeRequest(snapshot=self.event_pb.StartSnapshot()), **more)

    def list(self, channel, **more):
        return self.call_grpc.CallServiceStub(channel).ListCalls(self.call_pb.ListCallsRequest(domain=self.domain), **{**WAIT, **more})

    def still_serves(self, channel, relay):
        """On the very connection."""
        self.list(channel)
        expect("the connection goes on", (relay.connections, relay.seen("agent", wire.GOAWAY)), (1, []))


def raw(channel, method, streams=False):
    """A method that takes and gives bytes as they are."""
    make = channel.unary_stream if streams else channel.unary_unary
    return make(f"/elph.agent.v1.{method}", request_serializer=bytes, response_deserializer=bytes)


def cancellation(agent):
    relay = wire.Relay(agent.socket)
    channel = local(relay.path)
    gone, stays = agent.subscribe(channel, timeout=60), agent.subscribe(channel, timeout=60)
    for stream in (gone, stays):
        expect("a stream begins", next(stream).HasField("snapshot"), True)
    agent.open_streams(2)
    gone.cancel()
    agent.open_streams(1)
    until("it is counted as cancelled", lambda: agent.ended("EventService/Subscribe", "CANCELLED") == 1)
    expect("by the one frame that is meant for it", len(relay.seen("client", wire.RST_STREAM)), 1)
    expect("the other goes on", stays.is_active(), True)
    agent.still_serves(channel, relay)
    # A client that is gone altogether.
    relay.close()
    agent.open_streams(0)
    channel.close()


def many(agent):
    relay = wire.Relay(agent.socket)
    channel = local(relay.path)
    streams = [agent.subscribe(channel, timeout=60) for _ in range(50)]
    for stream in streams:
        next(message for message in stream if message.snapshot.complete)
    agent.open_streams(50)
    call = agent.call_grpc.CallServiceStub(channel).MakeCall(agent.call_pb.MakeCallRequest(
        request_id="many-1", domain=agent.domain, from_alias="1001", to_number="1002"), **WAIT).call
    told = []

    def read(stream):
        told.append(next(message.event.call.id for message in stream if message.event.call.id == call.id))

    readers = [threading.Thread(target=read, args=[stream], daemon=True) for stream in streams]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(timeout=20)
    expect("fifty streams tell of one call", told, [call.id] * 50)
    agent.still_serves(channel, relay)
    for stream in streams:
        stream.cancel()
    agent.open_streams(0)
    channel.close()


def keepalive(agent):
    # gRPC's own servers allow a ping every five minutes where nothing else is sent, forgive two that come earlier, and answer the third
    # with GOAWAY ENHANCE_YOUR_CALM "too_many_pings". The agent sets no least interval: each ping is answered, at whatever interval and
    # with no request under way. 10 s is what clients behind a NAT use; here it is the least that grpcio can be made to do.
    relay = wire.Relay(agent.socket)
    channel = local(relay.path, grpc__keepalive_time_ms=100, grpc__keepalive_timeout_ms=10_000, grpc__keepalive_permit_without_calls=1,
                    grpc__http2__max_pings_without_data=0)
    agent.list(channel)

    def answers():
        return [payload for flags, payload in relay.seen("agent", wire.PING) if flags & wire.ACK]

    before = len(answers())
    until("five pings of an idle connection are answered", lambda: len(answers()) >= before + 5)
    sent = [payload for flags, payload in relay.seen("client", wire.PING) if not flags & wire.ACK]
    got = answers()
    expect("each with its own payload, in order", got, sent[:len(got)])
    stream = agent.subscribe(channel, timeout=60)
    next(stream)
    before = len(answers())
    until("and five beside a stream", lambda: len(answers()) >= before + 5)
    expect("the stream goes on", stream.is_active(), True)
    agent.still_serves(channel, relay)
    channel.close()


def compression(agent):
    # gRPC's compression specification: a server that does not support an algorithm answers UNIMPLEMENTED and names in
    # grpc-accept-encoding what it does. The agent takes messages as they are: a small one must not become a big one in its memory.
    relay = wire.Relay(agent.socket)
    channel = local(relay.path)
    for algorithm in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        name = algorithm.name.lower()
        error = error_of(name, lambda: agent.list(channel, compression=algorithm))
        expect(f"{name} is refused", error.code(), grpc.StatusCode.UNIMPLEMENTED)
        expect(f"{name} is named: {error.details()}", f"`{name}`" in error.details(), True)
        error = error_of(name, lambda: next(agent.subscribe(channel, timeout=10, compression=algorithm)))
        expect(f"{name} is refused for a stream", error.code(), grpc.StatusCode.UNIMPLEMENTED)
    expect("each answer names what is accepted", relay.headers("grpc-accept-encoding"), ["identity"] * 4)
    agent.list(channel, compression=grpc.Compression.NoCompression)
    expect("answers are as they are", relay.headers("grpc-encoding"), [])
    agent.still_serves(channel, relay)
    channel.close()


def deadline(agent):
    relay = wire.Relay(agent.socket)
    channel = local(relay.path)
    stream = agent.subscribe(channel, timeout=2)
    expect("a stream begins", next(stream).HasField("snapshot"), True)
    # grpcio takes the stream back at its deadline. Here the agent does not hear of it and has to keep the deadline by itself.
    relay.silence()
    error = error_of("a stream past its deadline", lambda: list(stream))
    expect("a stream past its deadline", error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
    agent.open_streams(0)
    until("the agent has kept it", lambda: agent.ended("EventService/Subscribe", "DEADLINE_EXCEEDED") == 1)
    until("and said so", lambda: relay.headers("grpc-status") == [str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])])
    channel.close()
    relay.close()
    channel = local(agent.socket)
    # The switch takes longer to answer than the caller waits.
    create = raw(channel, "ConferenceService/CreateConference")
    conf_pb, _ = stubs("conference")
    request = conf_pb.CreateConferenceRequest(request_id="late-1", domain=agent.domain, name="Late")
    error = error_of("a late answer", lambda: create(request.SerializeToString(), timeout=0.2))
    expect("a late answer", error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
    answer = conf_pb.CreateConferenceResponse.FromString(create(request.SerializeToString(), timeout=20))
    expect("the same request id tells how it ended", answer.conference.name, "Late")
    channel.close()


def limits(agent):
    relay = wire.Relay(agent.socket)
    channel = local(relay.path)
    stream = agent.subscribe(channel, timeout=60)
    next(stream)
    methods = [(raw(channel, "CallService/MakeCall"), lambda answer: answer), (raw(channel, "EventService/Subscribe", True), next)]
    for method, first in methods:
        # A field of the right kind, so that only the size is wrong. The agent's limit is 1 MiB (grpc.max_message_bytes).
        big = agent.call_pb.MakeCallRequest(domain="x" * (1 << 20)).SerializeToString()
        refused("a message over the limit", lambda: first(method(big, **WAIT)), grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
        for malformed in (b"\xff\xff\xff", b"\x0a\x05abc", b"\x0b"):
            refused("no message at all", lambda: first(method(malformed, **WAIT)), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    for what, path in {"method": "CallService/NoSuchMethod", "service": "NoSuchService/List"}.items():
        error = error_of(f"an unknown {what}", lambda: raw(channel, path)(b"", **WAIT))
        expect(f"an unknown {what}", error.code(), grpc.StatusCode.UNIMPLEMENTED)
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    # HTTP/2 counts 32 bytes more for each entry than it has text.
    for what, metadata in {"one long value": [("x-long", "a" * 17_000)], "many": [(f"x-{n}", "a") for n in range(500)]}.items():
        refused(f"too much metadata, {what}", lambda: agent.list(channel, metadata=metadata), exhausted, "METADATA_TOO_LARGE")
        refused("and for a stream", lambda: next(agent.subscribe(channel, timeout=10, metadata=metadata)), exhausted, "METADATA_TOO_LARGE")
    agent.list(channel, metadata=[("x-long", "a" * 8_000), ("x-bytes-bin", bytes(range(256)))])
    expect("the stream beside all that goes on", stream.is_active(), True)
    agent.still_serves(channel, relay)
    # Far more is refused by HTTP/2 itself, which has no better words for it.
    error = error_of("metadata of 80 KB", lambda: agent.list(channel, metadata=[("x-long", "a" * 80_000)]))
    expect("metadata of 80 KB", (error.code(), "431" in error.details()), (grpc.StatusCode.UNKNOWN, True))
    expect("the stream goes on even so", stream.is_active(), True)
    agent.still_serves(channel, relay)
    # Beyond all measure it ends the connection, and no other.
    error = error_of("metadata of 1 MB", lambda: agent.list(channel, metadata=[("x-long", "a" * 1_000_000)]))
    expect(f"metadata of 1 MB: {error.details()}", error.code(), grpc.StatusCode.UNAVAILABLE)
    agent.list(channel)
    expect("a new connection serves", relay.connections > 1, True)
    channel.close()


SCENARIOS = {it.__name__: it for it in (cancellation, many, keepalive, compression, deadline, limits)}


def main():
    scenario, *where = sys.argv[1:]
    SCENARIOS[scenario](Agent(*where))


if __name__ == "__main__":
    main()
