"""The command `iptc exporter`: its endpoint, its files, and clients and hosts that cause trouble."""

import base64
import contextlib
import gzip
import http.client
import os
import pathlib
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys

import pytest
from conftest import PATIENCE, short_name
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics

import iptc

ROOT = pathlib.Path(iptc.__file__).parent.parent
EXPORTER = [sys.executable, "-m", "iptc", "exporter"]
LARGE = 3000


class Exporter:
    """A running `iptc exporter`."""

    def __init__(self, process):
        self.process = process
        self.said = []
        while not (found := re.search(r"listening on (https?)://127\.0\.0\.1:(\d+)(\S+)", self.line())):
            pass
        self.scheme, self.port, self.path = found[1], int(found[2]), found[3]

    def line(self):
        """Return the next line that it prints."""
        line = self.process.stderr.readline()
        assert line, f"it ended: {self.said}"
        self.said.append(line)
        return line

    def connect(self, receive=None):
        """Return a new connection."""
        connection = socket.socket()
        if receive is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        connection.connect(("127.0.0.1", self.port))
        return connection

    def ask(self, path=None, method="GET", context=None, **headers):
        """Send one request. Return (status, headers, body)."""
        if self.scheme == "https":
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=PATIENCE)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path or self.path, headers={k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def threads(self):
        """Return how many threads it has."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def end(self, number=signal.SIGTERM):
        """End it by a signal. Return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@pytest.fixture
def start(host):
    """Return a function that starts `iptc exporter` on a free port. All of them are ended after the test."""
    host.run("ip", "link", "set", "lo", "up")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = []

    def run(*arguments, before=(), **options):
        command = [*before, *EXPORTER, "--web.listen-address", "127.0.0.1:0", *arguments]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **options)
        processes.append(process)
        return Exporter(process)

    yield run
    for process in processes:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture
def command(host):
    """Run `iptc exporter`: (exit status, stdout, stderr)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(*arguments, before=(), program=EXPORTER):
        done = subprocess.run([*before, *program, *arguments], env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    return run


def value(body, name):
    """Return the value of the only sample of a metric."""
    (found,) = re.findall(rf"^{name} (\S+)$", body.decode(), re.MULTILINE)
    return float(found)


def test_a_scrape_returns_the_metrics(host, start):
    host.iptables("-A INPUT -p tcp -m comment --comment web -j ACCEPT")
    exporter = start()
    status, headers, body = exporter.ask()
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b'comment="web",target="ACCEPT"} ' in body and value(body, "iptables_scrape_success") == 1
    # the scrape itself causes traffic
    counted = rb'iptables_rule_packets_total\{.*comment="web".*\} (\d+)'
    assert int(re.search(counted, exporter.ask()[2])[1]) > int(re.search(counted, body)[1])
    # what the process needs itself
    assert value(body, "process_open_fds") > 3
    status, headers, body = exporter.ask(Accept="application/openmetrics-text; version=1.0.0", Accept_Encoding="gzip")
    assert status == 200 and headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0;")
    assert headers["Content-Encoding"] == "gzip"
    names = {family.name for family in read_openmetrics(gzip.decompress(body).decode())}
    assert {"iptables_rule_packets", "iptables_scrape_success", "process_cpu_seconds"} <= names
    for accept in "application/openmetrics-text; version=9.9; escaping=allow-utf-8", "text/plain; version=1.0.0":
        assert re.search(r"version=(1.0.0|0.0.4);", exporter.ask(Accept=accept)[1]["Content-Type"])
    assert exporter.ask("/nowhere")[0] == 404 and exporter.ask("/-/healthy")[0] == 200
    assert exporter.path.encode() in exporter.ask("/")[2]
    assert exporter.ask(method="HEAD")[::2] == (200, b"") and exporter.ask(method="POST")[0] == 405
    assert exporter.threads() <= 3
    assert exporter.end() == 0


@pytest.mark.one_backend("nft")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_signals_end_it_as_any_command(start, number):
    assert start().end(number) == 128 + number


@pytest.mark.one_backend("legacy")
def test_another_path(start):
    exporter = start("--web.telemetry-path", "/counters")
    assert exporter.path == "/counters" and exporter.ask()[0] == 200 and exporter.ask("/metrics")[0] == 404


@pytest.mark.one_backend("legacy")
def test_one_connection_for_several_scrapes(start):
    exporter = start()
    connection = http.client.HTTPConnection("127.0.0.1", exporter.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        for _ in range(3):
            connection.request("GET", exporter.path)
            assert connection.getresponse().read()
            assert connection.sock is not None


@pytest.mark.one_backend("legacy")
@pytest.mark.parametrize(
    "arguments, status, text",
    [
        (["--web.listen-address", "127.0.0.1:{port}"], 1, "can't listen on 127.0.0.1:{port}: Address already in use"),
        (["--web.listen-address", "nonsense"], 2, "no address to listen on"),
        (["--web.config.file", "/nowhere"], 1, "can't read /nowhere"),
        (["--rule", "("], 2, "no regular expression"),
        (["--once", "--textfile", "/nowhere/x.prom"], 1, "can't write /nowhere/x.prom: No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(command, host, arguments, status, text):
    host.run("ip", "link", "set", "lo", "up")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command(*(word.format(port=port) for word in arguments))
    assert done == (status, "", f"iptc: {done[2][6:]}") and done[2].count("\n") == 1
    assert text.format(port=port) in done[2]


WITHOUT = [
    sys.executable,
    "-c",
    "import sys; sys.modules['prometheus_client'] = None; import iptc.cli; sys.exit(iptc.cli.main())",
]


@pytest.mark.one_backend("legacy")
def test_only_the_endpoint_needs_prometheus_client(host, command, tmp_path):
    host.iptables("-A INPUT -p tcp")
    status, out, err = command("exporter", program=WITHOUT)
    assert (status, out) == (1, "") and err.count("\n") == 1 and "pip install 'iptc[prometheus]'" in err
    status, out, err = command("exporter", "--once", program=WITHOUT)
    assert (status, err) == (0, "") and 'rule="-p tcp"' in out
    assert command("exporter", "--once", "--textfile", str(tmp_path / "x.prom"), program=WITHOUT) == (0, "", "")


NO_RIGHTS = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
TWO_RIGHTS = ["setpriv", "--inh-caps=-all", "--bounding-set=-all,+net_admin,+net_raw"]


def test_two_capabilities_are_enough(host, start):
    host.iptables("-A INPUT -p tcp")
    exporter = start(before=TWO_RIGHTS)
    assert value(exporter.ask()[2], "iptables_scrape_success") == 1
    with open(f"/proc/{exporter.process.pid}/status") as status:
        assert re.search(r"CapEff:\t(\w+)", status.read())[1] == "0000000000003000"


def test_a_failed_read_is_a_metric(host, start, command):
    host.iptables("-A INPUT -p tcp")
    exporter = start(before=NO_RIGHTS)
    for _ in range(2):
        status, _, body = exporter.ask()
        assert status == 200 and value(body, "iptables_scrape_success") == 0
        assert re.search(rb"^iptables_read_success\{.*\} 0$", body, re.MULTILINE)
    assert exporter.end() == 0
    rest = exporter.process.stderr.read()
    # each series once, although the table was named twice
    assert len(set(rest.splitlines())) == len(rest.splitlines()) and "cannot be read" in rest
    status, out, _ = command("--once", before=NO_RIGHTS)
    assert status == 1 and "\niptables_scrape_success 0\n" in out


@pytest.mark.one_backend("legacy")
def test_sockets_of_systemd(host, start):
    host.run("ip", "link", "set", "lo", "up")
    with socket.create_server(("127.0.0.1", 0)) as ours:
        port = ours.getsockname()[1]
        # as systemd does: the socket is descriptor 3, and LISTEN_PID is the process id
        script = f'exec 3<&{ours.fileno()}; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
        exporter = start(before=["bash", "-c", script, "bash"], pass_fds=[ours.fileno()])
        assert exporter.port == port and exporter.ask()[0] == 200


@pytest.mark.one_backend("legacy")
def test_systemd_is_told(host, start, tmp_path):
    # by a link, since the address of a socket is at most 107 bytes and the folder's own name may be longer
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, short_name(tmp_path) as folder:
        channel.bind(f"{folder}/notify")
        exporter = start(before=["env", f"NOTIFY_SOCKET={folder}/notify"])
        assert channel.recv(100) == b"READY=1"
        assert exporter.end() == 0
        assert channel.recv(100) == b"STOPPING=1"


# ---------------------------------------------------------------- bad clients


@pytest.fixture
def large(host):
    """So many rules that no socket can hold a whole answer."""
    comment = "x" * 200
    rules = [f'-A unused -p tcp -m tcp --dport {n} -m comment --comment "{comment}" -j ACCEPT' for n in range(LARGE)]
    iptc.restore("\n".join(["*filter", ":unused - [0:0]", *rules, "COMMIT", ""]))


REQUEST = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.one_backend("legacy")
def test_clients_that_never_read(large, start):
    exporter = start()
    silent = [exporter.connect(receive=4096) for _ in range(20)]
    try:
        for number, client in enumerate(silent):
            client.sendall(REQUEST)
            # each client gets an answer of its own
            client.recv(1)
        # other clients do not wait for them
        status, _, body = exporter.ask()
        assert status == 200 and body.count(b"\niptables_rule_packets_total{") == LARGE
        # not so many answers are kept in memory: the client that was silent for longest was cut off
        cut = 0
        for client in silent[:8]:
            with contextlib.suppress(ConnectionResetError):
                read = 0
                while piece := client.recv(1 << 20):
                    read += len(piece)
                    if read >= len(body):
                        break
            cut += read < len(body)
        assert cut == 8 and exporter.threads() <= 3
    finally:
        for client in silent:
            client.close()


@pytest.mark.one_backend("legacy")
def test_a_thousand_clients_are_answered(host, start):
    host.iptables("-A INPUT -p tcp")
    exporter = start()
    clients = []
    try:
        for _ in range(1000):
            clients.append(exporter.connect())
        for client in clients:
            client.sendall(REQUEST.replace(b"1.1", b"1.0"))
        for client in clients:
            client.settimeout(PATIENCE)
            answer = b""
            while piece := client.recv(1 << 16):
                answer += piece
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and b"\niptables_scrape_success 1\n" in answer
        assert exporter.threads() <= 3
    finally:
        for client in clients:
            client.close()


@pytest.mark.one_backend("legacy")
@pytest.mark.parametrize(
    "sent, answer",
    [
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nno header\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20000, b"431"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", b"405"),
    ],
)
def test_what_is_no_request_gets_an_error(start, sent, answer):
    exporter = start()
    with exporter.connect() as client:
        client.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1 << 16).split(b" ")[1] == answer
    with exporter.connect() as client:
        client.sendall(b"GET /met")  # and gone
    assert exporter.ask()[0] == 200


# ----------------------------------------------------------------------- TLS

HASHED = "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"


def basic(words):
    return {"Authorization": f"Basic {base64.b64encode(words).decode()}"}


@pytest.mark.one_backend("legacy")
def test_tls_and_users(start, tmp_path):
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *names]
        + ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"],
        check=True,
        capture_output=True,
    )
    config = tmp_path / "web.yml"
    config.write_text(
        f"# who may ask\ntls_server_config:\n  cert_file: cert.pem\n  key_file: 'key.pem'  # beside it\n"
        f'basic_auth_users:\n  prometheus: "{HASHED}"\n'
    )
    exporter = start("--web.config.file", str(config))
    assert exporter.scheme == "https"
    context = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    assert exporter.ask(context=context)[0] == 401
    for words in b"prometheus:wrong", b"nobody:secret", b"prometheus", b"\xff:\xff", b"prometheus:secret\0":
        for _ in range(2):
            assert exporter.ask(context=context, **basic(words))[0] == 401
    assert exporter.ask(context=context, Authorization="Basic !")[0] == 401
    for _ in range(2):
        assert exporter.ask(context=context, **basic(b"prometheus:secret"))[0] == 200
    # the bytes are no TLS
    with exporter.connect() as client:
        client.sendall(REQUEST)
        with contextlib.suppress(ConnectionResetError):
            assert b"200 OK" not in client.recv(100)
    assert exporter.ask(context=context, **basic(b"prometheus:secret"))[0] == 200


@pytest.mark.one_backend("legacy")
@pytest.mark.parametrize(
    "text, said",
    [
        ("tls_server_config:\n  cert_file: x\n", "needs key_file"),
        ("tls_server_config:\n  cert: x\n", "line 2: not understood: cert: x"),
        ("basic_auth_users:\n  me: secret\n", "not hashed by bcrypt"),
        ("basic_auth_users: {me: secret}\n", "line 1: not understood"),
        ("nothing\n", "line 1: not understood"),
        ("tls_server_config:\n  cert_file: no.pem\n  key_file: no.pem\n", "can't use the certificates"),
    ],
)
def test_a_config_that_makes_no_sense(command, tmp_path, text, said):
    config = tmp_path / "web.yml"
    config.write_text(text)
    status, out, err = command("--web.config.file", str(config), "--web.listen-address", "127.0.0.1:0")
    assert (status, out) == (1, "") and err.count("\n") == 1 and said in err


# --------------------------------------------------------------------- files


def test_a_file_is_written_whole(host, command, tmp_path):
    host.iptables("-A INPUT -p tcp")
    folder = tmp_path / "metrics"
    folder.mkdir()
    path = folder / "iptables.prom"
    for _ in range(2):
        assert command("--once", "--textfile", str(path)) == (0, "", "")
        assert os.listdir(folder) == ["iptables.prom"]
        assert 'rule="-p tcp"' in path.read_text() and stat.S_IMODE(path.stat().st_mode) == 0o644
    path.chmod(0o640)
    (folder / "link").symlink_to(path.name)
    assert command("--once", "--textfile", str(folder / "link")) == (0, "", "")
    assert os.readlink(folder / "link") == path.name and stat.S_IMODE(path.stat().st_mode) == 0o640
    status, _, err = command("--once", "--textfile", str(folder))
    assert status == 1 and err.count("\n") == 1 and sorted(os.listdir(folder)) == ["iptables.prom", "link"]


@pytest.mark.one_backend("legacy")
def test_a_device_or_pipe_that_is_named_as_the_file_stays_one(host, command, tmp_path):
    node, pipe = tmp_path / "node", tmp_path / "pipe"
    # a device node like /dev/full, if this process may make one; a pipe is treated alike
    with contextlib.suppress(PermissionError):
        os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(1, 7))
        status, _, err = command("--once", "--textfile", str(node))
        assert stat.S_ISCHR(node.stat().st_mode) and status == 1
        assert "No space left on device" in err or "Permission denied" in err
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert command("--once", "--textfile", str(pipe)) == (0, "", "")
        assert b"iptables_scrape_duration_seconds" in os.read(reader, 1 << 16)
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.one_backend("legacy")
def test_a_file_is_written_again_at_each_interval(host, tmp_path):
    path = tmp_path / "iptables.prom"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = ["--textfile", str(path), "--interval", "0.01"]
    with subprocess.Popen([*EXPORTER, *arguments], env=environment, stderr=subprocess.PIPE) as process:
        try:
            seen = set()
            while len(seen) < 5:
                with contextlib.suppress(FileNotFoundError):
                    text = path.read_text()
                    assert text.rpartition("\n")[0].rpartition("\n")[2].startswith("iptables_scrape_duration_seconds")
                    seen.add(path.stat().st_ino)
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    assert [name for name in os.listdir(tmp_path) if "prom" in name] == ["iptables.prom"]
