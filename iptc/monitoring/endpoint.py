"""The endpoint that Prometheus scrapes: HTTP/1.1, with one thread that talks to clients and one that reads tables.

prometheus_client chooses the format for a client, and has the metrics of this process. The time and the memory of each
client are limited, so no client can keep the others from being answered.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import logging
import resource
import signal
import zlib

from ..errors import IPTCError
from . import listening, webconfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    from .exposition import Scrape, Scraper

logger = logging.getLogger("iptc")

_FOR_REQUEST = 10.0
"""Seconds for a client to send its request, once it has begun."""

_FOR_NEXT = 300.0
"""Seconds after which an idle connection is closed."""

_FOR_PIECE, _FOR_ANSWER = 10.0, 60.0
"""Seconds for a client to receive a piece of a response, and to receive all of it."""

_LONGEST_REQUEST = 16384
_PIECE = 65536
_MOST_RESPONSES = 8
"""How many responses are kept for slow clients. If there are more, the clients that still receive the oldest are cut
off."""

_SPARE_DESCRIPTORS = 64

_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed"}
_REASONS |= {431: "Request Header Fields Too Large", 500: "Internal Server Error"}

_OPENMETRICS = "application/openmetrics-text"
_PLAIN = "text/plain; charset=utf-8"


def serve(scraper: Scraper, address: str, path: str, config: str | None = None) -> int:
    """Answer scrapes on *address* under *path* until SIGTERM, SIGINT or SIGHUP. Return the exit status.

    *config*: a file with TLS and users in the format of exporter-toolkit. Raises `IPTCError` without prometheus_client.
    """
    try:
        import prometheus_client.exposition  # noqa: F401 - whether it is there
    except ImportError:
        text = "the endpoint needs prometheus_client: pip install 'iptc[prometheus]' (--once and --textfile do not)"
        raise IPTCError(text) from None
    web = webconfig.WebConfig() if config is None else webconfig.read(config)
    return asyncio.run(_Endpoint(scraper, path, web).run(listening.open_sockets(address)))


class _Response:
    """The response of one scrape, in the formats that were requested, and the clients that still receive it."""

    def __init__(self, scrape: Scrape) -> None:
        self.scrape = scrape
        self.bodies: dict[tuple[str, bool], bytes] = {}
        self.takers: set[asyncio.Transport] = set()


class _Endpoint:
    def __init__(self, scraper: Scraper, path: str, web: webconfig.WebConfig) -> None:
        import prometheus_client
        from prometheus_client import exposition

        self._scraper = scraper
        self._path = path if path.startswith("/") else f"/{path}"
        self._web = web
        self._choose, self._takes_gzip = exposition.choose_encoder, exposition.gzip_accepted
        self._process = prometheus_client.CollectorRegistry()
        for collector in (prometheus_client.ProcessCollector, prometheus_client.PlatformCollector):
            collector(registry=self._process)
        prometheus_client.GCCollector(registry=self._process)
        # one thread reads tables and formats responses, the other one checks passwords
        self._reading = concurrent.futures.ThreadPoolExecutor(1, "iptc-scrape")
        self._checking = concurrent.futures.ThreadPoolExecutor(1, "iptc-password")
        self._next: asyncio.Future[_Response] | None = None
        self._scraping: asyncio.Task[None] | None = None
        self._responses: collections.deque[_Response] = collections.deque()
        self._idle: dict[asyncio.Transport, None] = {}
        self._connections = 0

    async def run(self, sockets: list[socket.socket]) -> int:
        """Serve until a signal ends it."""
        loop = asyncio.get_running_loop()
        stopped: asyncio.Future[int] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, _end, stopped, number)
        self._most = _raise_limit() - _SPARE_DESCRIPTORS
        context = self._web.context()
        servers = []
        for each in sockets:
            options: dict[str, Any] = {"ssl": context, "backlog": listening.BACKLOG}
            if context is not None:
                options |= {"ssl_handshake_timeout": _FOR_REQUEST, "ssl_shutdown_timeout": 1}
            servers.append(await asyncio.start_server(self._client, sock=each, limit=_LONGEST_REQUEST, **options))
            scheme = "http" if context is None else "https"
            logger.info("listening on %s://%s%s", scheme, listening.name_of(each), self._path)
        listening.tell_systemd("READY=1")
        ended_by = await stopped
        listening.tell_systemd("STOPPING=1")
        for server in servers:
            server.close()
        self._reading.shutdown(wait=True, cancel_futures=True)
        self._checking.shutdown(wait=False, cancel_futures=True)
        return 0 if ended_by == signal.SIGTERM else 128 + ended_by

    # ---------------------------------------------------------------- clients

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one client."""
        transport: Any = writer.transport
        transport.set_write_buffer_limits(_PIECE)
        self._connections += 1
        if self._connections > self._most and self._idle:
            # close the connection that has been idle for the longest time
            next(iter(self._idle)).abort()
        try:
            while await self._request(reader, writer, transport):
                pass
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            transport.abort()
        finally:
            self._idle.pop(transport, None)
            self._connections -= 1
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, transport: Any) -> bool:
        """Answer one request. Return whether the connection is kept for another one."""
        self._idle[transport] = None
        async with asyncio.timeout(_FOR_NEXT):
            first = await reader.read(1)
        self._idle.pop(transport, None)
        if not first:
            return False
        try:
            async with asyncio.timeout(_FOR_REQUEST):
                head = first + await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            await self._send(writer, 431, _PLAIN, b"too long\n", keep=False)
            return False
        request = _Request.read(head)
        if request is None:
            await self._send(writer, 400, _PLAIN, b"no request\n", keep=False)
            return False
        keep = request.keep
        body: bytes | Any = b""
        extra: list[str] = []
        status, kind = 200, _PLAIN
        response = None
        if not await self._may(request):
            status, body, extra = 401, b"Unauthorized\n", ['WWW-Authenticate: Basic realm="iptc"']
        elif request.method not in ("GET", "HEAD"):
            status, body, extra = 405, b"only GET\n", ["Allow: GET, HEAD"]
        elif request.path == self._path:
            encode, kind = self._form(request.headers.get("accept", ""))
            packed = self._takes_gzip(request.headers.get("accept-encoding", ""))
            try:
                response = await self._response_of_scrape(encode, kind, packed)
                response.takers.add(transport)
                body = await self._body(response, encode, kind, packed)
            except Exception as error:
                # answer with an error: the next scrape may succeed, and an exporter that has ended reports nothing
                logger.exception("a scrape failed")
                status, kind, body = 500, _PLAIN, f"{error}\n".encode("utf-8", "backslashreplace")
            else:
                extra = ["Vary: Accept, Accept-Encoding"] + ["Content-Encoding: gzip"] * packed
        elif request.path == "/-/healthy":
            body = b"healthy\n"
        elif request.path == "/":
            kind = "text/html; charset=utf-8"
            body = f'<!DOCTYPE html><title>iptc exporter</title><p><a href="{self._path}">metrics</a>\n'.encode()
        else:
            status, body = 404, b"not found\n"
        try:
            await self._send(writer, status, kind, body, extra, request.method == "HEAD", keep)
        finally:
            if response is not None:
                response.takers.discard(transport)
                if not response.takers and response in self._responses:
                    self._responses.remove(response)
        return keep

    async def _send(
        self,
        writer: asyncio.StreamWriter,
        status: int,
        kind: str,
        body: bytes,
        extra: list[str] | tuple[str, ...] = (),
        head_only: bool = False,
        keep: bool = True,
    ) -> None:
        lines = [f"HTTP/1.1 {status} {_REASONS[status]}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
        lines += [*extra, f"Connection: {'keep-alive' if keep else 'close'}", "", ""]
        async with asyncio.timeout(_FOR_ANSWER):
            writer.write("\r\n".join(lines).encode())
            rest = memoryview(b"" if head_only else body)
            while rest:
                writer.write(rest[:_PIECE])
                rest = rest[_PIECE:]
                if writer.transport.get_write_buffer_size():
                    async with asyncio.timeout(_FOR_PIECE):
                        await writer.drain()

    def _form(self, accept: str) -> tuple[Callable[[Any], bytes], str]:
        """Return (the function that formats the metrics of this process as the client accepts them, the content type).

        There are two formats, however many a client may name.
        """
        wants_openmetrics = self._choose(accept)[1].startswith(_OPENMETRICS)
        form: tuple[Callable[[Any], bytes], str] = self._choose(f"{_OPENMETRICS}; version=1.0.0" * wants_openmetrics)
        return form

    async def _may(self, request: _Request) -> bool:
        if not self._web.users:
            return True
        given = request.headers.get("authorization", "")
        known = self._web.is_known(given)
        if known is not None:
            return known
        may: bool = await self._apart(self._checking, self._web.check, given)
        return may

    # ---------------------------------------------------------------- scrapes

    @staticmethod
    async def _apart(pool: concurrent.futures.Executor, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, call, *arguments)

    async def _response_of_scrape(self, *form: Any) -> _Response:
        """Return the response of a scrape that begins after this call. All clients that wait for it share it.

        *form*: the arguments of `_written`.
        """
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            if self._scraping is None or self._scraping.done():
                self._scraping = asyncio.create_task(self._scrape(form))
        return await asyncio.shield(self._next)

    async def _scrape(self, form: tuple[Any, ...]) -> None:
        """Scrape as long as a client waits."""
        while self._next is not None:
            wanted, self._next = self._next, None
            try:
                response = await self._apart(self._reading, self._read, form)
            except Exception as error:
                wanted.set_exception(error)
                wanted.exception()  # the clients that waited may be gone
                continue
            wanted.set_result(response)
            self._responses.append(response)
            while len(self._responses) > _MOST_RESPONSES:
                for transport in self._responses.popleft().takers:
                    transport.abort()

    def _read(self, form: tuple[Any, ...]) -> _Response:
        """Scrape, and format the response as the first client has requested it."""
        response = _Response(self._scraper.scrape())
        response.bodies[form[1:]] = self._written(response, *form)
        return response

    async def _body(self, response: _Response, encode: Callable[[Any], bytes], kind: str, packed: bool) -> bytes:
        if (kind, packed) not in response.bodies:
            response.bodies[kind, packed] = await self._apart(
                self._reading, self._written, response, encode, kind, packed
            )
        return response.bodies[kind, packed]

    def _written(self, response: _Response, encode: Callable[[Any], bytes], kind: str, packed: bool) -> bytes:
        if (kind, packed) in response.bodies:
            return response.bodies[kind, packed]  # another client has requested the same format meanwhile
        # the text of prometheus_client ends with the line that must end OpenMetrics
        text = response.scrape.text(kind.startswith(_OPENMETRICS), encode(self._process))
        if not packed:
            return text
        packer = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        return packer.compress(text) + packer.flush()


def _end(stopped: asyncio.Future[int], number: int) -> None:
    if not stopped.done():
        stopped.set_result(number)


class _Request:
    """The head of a request."""

    def __init__(self, method: str, path: str, headers: dict[str, str], keep: bool) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.keep = keep

    @classmethod
    def read(cls, head: bytes) -> _Request | None:
        """Return the request that *head* contains, or None."""
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return None
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or name != name.strip():
                return None
            name = name.lower()
            headers[name] = f"{headers[name]},{value.strip()}" if name in headers else value.strip()
        # a body is not read, so the connection cannot be used for another request
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        wishes = headers.get("connection", "").lower()
        keep = not has_body and "close" not in wishes and (words[2] == "HTTP/1.1" or "keep-alive" in wishes)
        return cls(words[0], words[1].partition("?")[0], headers, keep)


def _raise_limit() -> int:
    """Raise the limit of open descriptors of this process as far as possible. Return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 8192) if hard != resource.RLIM_INFINITY else 8192
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return max(soft, 2 * _SPARE_DESCRIPTORS)
