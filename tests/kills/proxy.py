"""A connection that can be cut: in the middle of a question, or in the middle of its answer."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Proxy:
    "Hands bytes on between its own port and another; `cut` names what is cut: nothing, `request` or `response`."

    def __init__(self, target: int) -> None:
        self.cut, self.cuts = "", 0
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]

    def serve(self) -> None:
        "Hand on until closed."
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def close(self) -> None:
        "Take no more connections."
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        back = threading.Thread(target=self._hand_on, args=(server, client, "response"), daemon=True)
        back.start()
        self._hand_on(client, server, "request")
        back.join()
        client.close()
        server.close()

    def _hand_on(self, source: socket.socket, sink: socket.socket, what: str) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self.cut == what and not (what == "request" and data.endswith(b"\r\n\r\n")):
                    self.cuts += 1
                    sink.sendall(data[:8] if what == "response" else data[: len(data) // 2])  # a 204 is an answer
                    break
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    "Serve a proxy."
    proxy = Proxy(port)
    thread = threading.Thread(target=proxy.serve)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()
