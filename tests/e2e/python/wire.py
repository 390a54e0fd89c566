"""What really goes over the wire between grpcio and the agent: a relay that reads the HTTP/2 frames of both directions (RFC 9113).

grpcio keeps some of it to itself: pings, GOAWAY, and the header that says which compression is accepted.
"""

import contextlib
import socket
import tempfile
import threading

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, PRIORITY = 0x4, 0x8, 0x20


class Relay:
    """Listens on a socket of its own, passes everything on, and keeps the frames that it saw."""

    def __init__(self, to):
        self._to = to
        self._directory = tempfile.TemporaryDirectory(prefix="elph-wire-")
        self.path = f"{self._directory.name}/s"
        self._lock = threading.Lock()
        self._frames = []
        self._open = []
        self._deaf = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()

    def seen(self, sender, kind):
        """The frames of a kind from `client` or `agent` so far, as (flags, payload); of HEADERS the payload is the list of headers."""
        with self._lock:
            return [(flags, payload) for who, what, flags, payload in self._frames if (who, what) == (sender, kind)]

    def headers(self, name):
        """The values of a header in what the agent has sent."""
        return [value for _, headers in self.seen("agent", HEADERS) for key, value in headers if key == name]

    @property
    def connections(self):
        """How many connections the client has made."""
        with self._lock:
            return len(self._open) // 2

    def silence(self):
        """From now on nothing that the client sends reaches the agent, as with a client that has lost its network."""
        self._deaf.set()

    def close(self):
        """Ends all connections."""
        self._listener.close()
        with self._lock:
            ends = list(self._open)
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._directory.cleanup()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            agent = socket.socket(socket.AF_UNIX)
            agent.connect(self._to)
            with self._lock:
                self._open += [client, agent]
            threading.Thread(target=self._pass, args=("client", client, agent, len(PREFACE)), daemon=True).start()
            threading.Thread(target=self._pass, args=("agent", agent, client, 0), daemon=True).start()

    def _pass(self, sender, source, target, skip):
        reader = _Reader(skip)
        try:
            while chunk := source.recv(65536):
                frames = reader.read(chunk)
                with self._lock:
                    self._frames += [(sender, *frame) for frame in frames]
                if sender == "agent" or not self._deaf.is_set():
                    target.sendall(chunk)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            # One end is gone; the other must hear of it.
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


class _Reader:
    """Cuts one direction into frames and decodes the headers."""

    def __init__(self, skip):
        self._buffer = b""
        self._skip = skip
        self._decoder = hpack.Decoder(max_header_list_size=1 << 24)
        self._block = b""

    def read(self, chunk):
        self._buffer += chunk
        if len(self._buffer) < self._skip:
            return []
        self._buffer, self._skip = self._buffer[self._skip:], 0
        frames = []
        while len(self._buffer) >= 9:
            length = int.from_bytes(self._buffer[:3], "big")
            if len(self._buffer) < 9 + length:
                break
            kind, flags, payload = self._buffer[3], self._buffer[4], self._buffer[9:9 + length]
            self._buffer = self._buffer[9 + length:]
            if kind not in (HEADERS, CONTINUATION):
                frames.append((kind, flags, payload if kind != DATA else b""))
                continue
            if kind == HEADERS and flags & PADDED:
                payload = payload[1:len(payload) - payload[0]]
            if kind == HEADERS and flags & PRIORITY:
                payload = payload[5:]
            self._block += payload
            if flags & END_HEADERS:
                frames.append((HEADERS, flags, [(str(name), str(value)) for name, value in self._decoder.decode(self._block)]))
                self._block = b""
        return frames
