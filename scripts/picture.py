"""Runs `iptc top` in tmux on a firewall with traffic for half a minute, and saves its screen as SVG."""

import html
import io
import math
import os
import pathlib
import random
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time

from rich.console import Console
from rich.text import Text

import iptc

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLUMNS, LINES, SECONDS, INTERVAL = 104, 16, 32.0, 0.5

RULES = {
    False: [
        '-p udp --dport 443 -m comment --comment "web, QUIC" -j ACCEPT',
        '-p udp --dport 53 -m comment --comment "names" -j ACCEPT',
        '-p udp --dport 123 -m comment --comment "time" -j ACCEPT',
        '-p udp --dport 1900 -m comment --comment "noise" -j DROP',
        '-p udp -m multiport --dports 69,161 -m comment --comment "scans" -j DROP',
        "-p tcp --dport 22 -j ACCEPT",
    ],
    True: [
        '-p udp --dport 443 -m comment --comment "web, QUIC" -j ACCEPT',
        '-p udp --dport 53 -m comment --comment "names" -j ACCEPT',
    ],
}

NEW_RULE = '-p udp --dport 53 -m length --length 0:128 -m comment --comment "small questions" -j ACCEPT'

TRAFFIC = [
    # address, port, bytes, packets a step as a function of the time
    ("127.0.0.1", 443, 1200, lambda now: 40 + 30 * math.sin(now / 3) + 6 * math.sin(now * 2)),
    ("::1", 443, 1200, lambda now: 18 + 15 * math.sin(now / 5 + 2)),
    ("127.0.0.1", 53, 70, lambda now: 9 + 4 * math.sin(now)),
    ("::1", 53, 90, lambda now: 3),
    ("127.0.0.1", 123, 48, lambda now: random.random() < 0.05),
    ("127.0.0.1", 1900, 300, lambda now: 2),
    ("127.0.0.1", 161, 60, lambda now: 70 if 14 < now < 21 or now > 28 else 0),
]
_STEP = 0.02


def firewall():
    """Make the rules."""
    for ipv6, rules in RULES.items():
        chain = iptc.Chain((iptc.Table6 if ipv6 else iptc.Table)("filter", backend="nft"), "INPUT")
        for line in rules:
            chain.append_rule((iptc.Rule6 if ipv6 else iptc.Rule).from_args(line))


def send(until):
    """Send the traffic until that time."""
    senders = {address: socket.socket(_family(address), socket.SOCK_DGRAM) for address, *_ in TRAFFIC}
    begin = time.monotonic()
    for address, port, *_ in TRAFFIC:
        taker = socket.socket(_family(address), socket.SOCK_DGRAM)
        taker.bind((address, port))
        senders[address, port] = taker  # kept open, so that no ICMP error is sent
    rest = [0.0] * len(TRAFFIC)
    while (now := time.monotonic()) < until:
        for number, (address, port, size, rate) in enumerate(TRAFFIC):
            rest[number] += max(0, rate(now - begin))
            while rest[number] >= 1:
                rest[number] -= 1
                senders[address].sendto(bytes(size), (address, port))
        time.sleep(_STEP)


def _family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def screen_of(tmux):
    """Return the text on the screen, with its colours."""
    return subprocess.run([*tmux, "capture-pane", "-e", "-p", "-N"], capture_output=True, text=True, check=True).stdout


def as_svg(screen):
    """Return *screen* as an SVG picture that needs no special font."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in screen.split("\n")[:LINES]:
        console.print(Text.from_ansi(line), no_wrap=True, crop=True)
    drawn = console.export_svg(title="iptc top", unique_id="top")
    drawn = re.sub(r"\s*@font-face \{.*?\}\n", "\n", drawn, flags=re.DOTALL)
    return _TEXT.sub(_word_by_word, drawn)


_TEXT = re.compile(
    r'<text class="([^"]+)" x="([\d.]+)" y="([\d.]+)" textLength="([\d.]+)" (clip-path="[^"]+")>([^<]*)</text>'
)


def _word_by_word(found):
    """Place each word by itself: not all viewers count blanks in the same way."""
    kind, x, y, length, clip, text = found.groups()
    chars = html.unescape(text).rstrip("\n")
    if not chars.strip("\xa0 "):
        return ""
    cell = float(length) / len(chars)
    words = []
    for word in re.finditer(r"[^\xa0]+", chars):
        place = f'x="{float(x) + cell * word.start():.1f}" y="{y}" textLength="{cell * len(word[0]):.1f}"'
        words.append(f'<text class="{kind}" {place} {clip}>{html.escape(word[0])}</text>')
    return "".join(words)


def main(path):
    """Write the picture to *path*."""
    firewall()
    with tempfile.TemporaryDirectory() as folder:
        tmux = ["tmux", "-S", f"{folder}/tmux"]
        command = shlex.join(
            [sys.executable, "-m", "iptc", "top", "--interval", str(INTERVAL), "--backend", "nft", "--no-idle"]
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        start = [*tmux, "-f", "/dev/null", "new-session", "-d", "-x", str(COLUMNS), "-y", str(LINES), command]
        subprocess.run(start, env=environment, check=True)
        try:
            send(time.monotonic() + SECONDS)
            # new rules are marked
            chain = iptc.Chain(iptc.Table("filter", backend="nft"), "INPUT")
            chain.insert_rule(iptc.Rule.from_args(NEW_RULE))
            send(time.monotonic() + 3 * INTERVAL)
            pathlib.Path(path).write_text(as_svg(screen_of(tmux)))
        finally:
            subprocess.run([*tmux, "kill-server"], check=False)


main(*sys.argv[1:])
