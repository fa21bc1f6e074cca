"""What stands between us and a vendor, on loopback: a proxy, its TLS, and what forgets connections."""

from __future__ import annotations

import base64
import socket
import ssl
import struct
import threading
from contextlib import suppress
from pathlib import Path

from tests.support.raw import Server

#: Of vendor.test and 127.0.0.1, self-signed, with a key that is no secret.
CERTIFICATE = Path(__file__).with_name("tls") / "vendor.pem"
NAME = "vendor.test"


def secured(connection: socket.socket) -> ssl.SSLSocket:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(CERTIFICATE, CERTIFICATE.with_suffix(".key"))
    return served.wrap_socket(connection, server_side=True)


class Passing(Server):
    """Passes bytes on to a port; `accepted` counts connections."""

    def __init__(self, port: int) -> None:
        self.accepted, self.port = 0, port
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        self.accepted += 1
        self.passed(connection)

    def passed(self, connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as there:
            back = threading.Thread(target=self._back, args=(there, connection), daemon=True)
            back.start()
            with suppress(OSError):
                while data := connection.recv(65536):
                    self.forth(there, connection, data)
            with suppress(OSError):
                there.shutdown(socket.SHUT_RDWR)
            back.join(5)

    def forth(self, there: socket.socket, connection: socket.socket, data: bytes) -> None:
        there.sendall(data)

    def _back(self, there: socket.socket, connection: socket.socket) -> None:
        with suppress(OSError):
            while data := there.recv(65536):
                connection.sendall(data)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


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
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            raise OSError
