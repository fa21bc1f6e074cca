"""Bytes on loopback that no HTTP library would write: a vendor's odd replies; a network that loses them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Server:
    """Serves each connection in a thread; `with` ends it."""

    def __init__(self) -> None:
        self._sock = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._open: set[socket.socket] = set()
        self.url = f"http://127.0.0.1:{self._sock.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._sock.accept()
            except OSError:
                return
            self._open.add(connection)
            threading.Thread(target=self._guarded, args=(connection,), daemon=True).start()

    def _guarded(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self.serve(connection)
        self._open.discard(connection)

    def serve(self, connection: socket.socket) -> None:
        raise NotImplementedError  # Each vendor's own.

    def hang_up(self) -> None:
        """End the connections that there are."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *args: object) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._thread.join(5)
        self.hang_up()


class RawVendor(Server):
    """Answers request number N with the bytes of `script(N, body)`; `bodies` are its own books."""

    def __init__(self, script: Callable[[int, bytes], bytes]) -> None:
        self.bodies: list[bytes] = []
        self._script, self._lock = script, threading.Lock()
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            while lines.readline():
                length = 0
                while line := lines.readline().strip():
                    name, _, value = line.decode("latin-1").partition(":")
                    length = int(value) if name.lower() == "content-length" else length
                body = lines.read(length)
                with self._lock:
                    number = len(self.bodies)
                    self.bodies.append(body)
                connection.sendall(self._script(number, body))


def answer(status: int, body: Any, head: bytes = b"") -> bytes:
    """Return a reply with a JSON body."""
    data = json.dumps(body).encode()
    kind = f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n".encode()
    return b"HTTP/1.1 %d X\r\n" % status + kind + head + b"\r\n" + data


class Losing(Server):
    """Passes bytes on to a port. While `loses`, a reply is read and `instead` is what comes of it."""

    def __init__(self, port: int, instead: bytes = b"") -> None:
        self.loses, self._port, self._instead = True, port, instead
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._port)) as there:
            back = threading.Thread(target=self._back, args=(there, connection), daemon=True)
            back.start()
            while data := connection.recv(65536):
                there.sendall(data)
            there.shutdown(socket.SHUT_RDWR)
            back.join(5)

    def _back(self, there: socket.socket, connection: socket.socket) -> None:
        with suppress(OSError):
            while data := there.recv(65536):
                if self.loses:
                    connection.sendall(self._instead)
                    connection.shutdown(socket.SHUT_RDWR)
                    return
                connection.sendall(data)
