"""What stands between two of us, on loopback: a proxy, its TLS; what cuts, delays or forgets connections."""

from __future__ import annotations

import base64
import random
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.raw import Server

#: Of vendor.test and 127.0.0.1, self-signed, with a key that is no secret.
CERTIFICATE = Path(__file__).with_name("tls") / "vendor.pem"
NAME = "vendor.test"


def secured(connection: socket.socket) -> ssl.SSLSocket:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(CERTIFICATE, CERTIFICATE.with_suffix(".key"))
    return served.wrap_socket(connection, server_side=True)


def reset(connection: socket.socket) -> None:
    """Let the other side hear that there is no such connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)  # Else it stays open while another thread reads of it.
    connection.close()


class Passing(Server):
    """Passes bytes on to a port, or to the path of a socket; `accepted` counts connections."""

    def __init__(self, to: int | str) -> None:
        self.accepted, self.to = 0, to
        super().__init__()

    @property
    def port(self) -> int:
        """Where it listens itself."""
        return int(self.url.rpartition(":")[2])

    def serve(self, connection: socket.socket) -> None:
        self.accepted += 1
        self.passed(connection)

    def passed(self, connection: socket.socket) -> None:
        with self._connected() as there:
            back = threading.Thread(target=self._back, args=(there, connection), daemon=True)
            back.start()
            with suppress(OSError):
                while data := connection.recv(65536):
                    self.forth(there, connection, data)
            with suppress(OSError):
                there.shutdown(socket.SHUT_RDWR)
            back.join(5)

    def _connected(self) -> socket.socket:
        if isinstance(self.to, int):
            return socket.create_connection(("127.0.0.1", self.to))
        there = socket.socket(socket.AF_UNIX)
        try:
            there.connect(self.to)
        except OSError:
            there.close()
            raise
        return there

    def forth(self, there: socket.socket, connection: socket.socket, data: bytes) -> None:
        there.sendall(data)

    def back(self, there: socket.socket, connection: socket.socket, data: bytes) -> None:
        connection.sendall(data)

    def _back(self, there: socket.socket, connection: socket.socket) -> None:
        with suppress(OSError):
            while data := there.recv(65536):
                self.back(there, connection, data)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


@dataclass
class _Fate:
    """What becomes of a connection: after so many bytes forth or back, by `kind`."""

    kind: str
    is_forth: bool
    left: int


class Unsteady(Passing):
    """Harms some of the connections, by a seed; those from `calm` on are only passed on.

    One is cut or reset after some bytes in either direction, or delayed once for `delay_s`, or goes deaf:
    what is sent in one direction does not arrive any more, and nobody hears so (half-open). `harmed` counts.
    """

    KINDS = ("cut", "reset", "delay", "deaf")

    def __init__(
        self, to: int | str, seed: int, *, share: float = 0.3, most: int = 1500, delay_s: float = 1.0
    ) -> None:
        """`share`: of the connections that are harmed; `most`: bytes after which one is, at the latest."""
        self._random, self._share, self._most = random.Random(seed), share, most
        self._delay_s, self._fates = delay_s, dict[socket.socket, _Fate]()
        self.calm, self.harmed = False, dict.fromkeys(self.KINDS, 0)
        super().__init__(to)

    def passed(self, connection: socket.socket) -> None:
        if not self.calm and self._random.random() < self._share:
            kind = self._random.choice(self.KINDS)
            fate = _Fate(kind, self._random.random() < 0.5, self._random.randrange(self._most))
            self._fates[connection] = fate
        super().passed(connection)
        self._fates.pop(connection, None)

    def forth(self, there: socket.socket, connection: socket.socket, data: bytes) -> None:
        super().forth(there, connection, self._harmed(connection, data, is_forth=True))

    def back(self, there: socket.socket, connection: socket.socket, data: bytes) -> None:
        super().back(there, connection, self._harmed(connection, data, is_forth=False))

    def _harmed(self, connection: socket.socket, data: bytes, *, is_forth: bool) -> bytes:
        """Return what arrives of some bytes. Raises OSError."""
        fate = self._fates.get(connection)
        if self.calm or fate is None or fate.is_forth != is_forth:
            return data
        before, fate.left = fate.left, fate.left - len(data)
        if fate.left >= 0:
            return data
        if before >= 0:
            self.harmed[fate.kind] += 1
        if fate.kind == "deaf":
            return data[: max(0, before)]
        if fate.kind == "delay":
            if before >= 0:
                time.sleep(self._delay_s)
            return data
        if fate.kind == "reset":
            reset(connection)
        raise OSError(fate.kind)


class Holding(Passing):
    """Keeps the next request in the block of `holding`, and ends its connection; `deliver` delivers it."""

    def __init__(self, to: int) -> None:
        self._holds, self._passes, self._held = False, False, b""
        super().__init__(to)

    @contextmanager
    def holding(self, *, passes: bool = False) -> Iterator[None]:
        """Keep the first request of the block; those after it pass. `passes`: so does that one."""
        self._holds, self._passes, self._held = True, passes, b""
        try:
            yield
        finally:
            assert not self._holds, "no whole request has come"

    def forth(self, there: socket.socket, connection: socket.socket, data: bytes) -> None:
        if self._holds:
            self._held += data
            head, _, body = self._held.partition(b"\r\n\r\n")
            [length] = re.findall(rb"(?i)\r\ncontent-length: (\d+)", head) or [b"-1"]
            self._holds = len(body) != int(length)  # Before it passes: its answer may end the block.
            if not self._passes:
                if not self._holds:
                    reset(connection)
                    raise OSError("kept")
                return
        super().forth(there, connection, data)

    def deliver(self, port: int) -> int:
        """Let what was kept arrive at a port; return the status of its answer."""
        with socket.create_connection(("127.0.0.1", port), timeout=60) as there:
            there.sendall(self._held)
            return int(there.recv(65536).split()[1])


class TlsFront(Passing):
    """The vendor's TLS; while `ready` is not set, it accepts and says nothing."""

    def __init__(self, port: int) -> None:
        self.ready = threading.Event()
        self.ready.set()
        super().__init__(port)

    def serve(self, connection: socket.socket) -> None:
        self.accepted += 1
        self.ready.wait(60)
        with secured(connection) as clear:
            self.passed(clear)


class ConnectProxy(Passing):
    """Answers CONNECT with `status` once `ready` is set, and leads wherever it is asked for to its port.

    A status of 0 closes the connection; those in `first` come before. `asked` are the heads that arrived,
    `credentials` what they showed.
    """

    def __init__(self, port: int, *, tls: bool = False) -> None:
        self.asked: list[str] = []
        self.status, self.ready, self.came = 200, threading.Event(), threading.Event()
        self.first: list[int] = []
        self.ready.set()
        self._tls = tls
        super().__init__(port)
        self.address = self.url.partition("//")[2]

    @property
    def credentials(self) -> list[str]:
        lines = [line for head in self.asked for line in head.split("\r\n")]
        shown = [line.split()[-1] for line in lines if line.lower().startswith("proxy-authorization: basic")]
        return [base64.b64decode(one).decode() for one in shown]

    def serve(self, connection: socket.socket) -> None:
        self.accepted += 1
        stream = secured(connection) if self._tls else connection
        with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                head += stream.recv(1)
            self.asked.append(head.decode("latin-1"))
            self.came.set()
            self.ready.wait(60)
            status = self.first.pop(0) if self.first else self.status
            if status:
                stream.sendall(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
            if status == 200:
                self.passed(stream)


class Middlebox(Passing):
    """Forgets connections: what is sent on one afterwards is answered by a reset, or not at all."""

    def __init__(self, port: int, *, resets: bool) -> None:
        self._resets, self._age, self._numbers = resets, 0, dict[int, int]()
        super().__init__(port)

    def forget(self) -> None:
        """Know none of the connections that there are any more."""
        self._age = self.accepted

    def serve(self, connection: socket.socket) -> None:
        self.accepted += 1
        self._numbers[connection.fileno()] = self.accepted
        self.passed(connection)

    def forth(self, there: socket.socket, connection: socket.socket, data: bytes) -> None:
        if self._numbers[connection.fileno()] > self._age:
            there.sendall(data)
        elif self._resets:
            reset(connection)
            raise OSError
