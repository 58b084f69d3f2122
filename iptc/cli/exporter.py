"""`iptc exporter`: the counters of all rules for Prometheus, over HTTP, as a file, or printed once."""

from __future__ import annotations

import signal
import sys
import time

from .arguments import add_command, add_wait, positive, seconds
from .output import write
from .selecting import add_selection, sources_of
from .signals import Stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from .arguments import _Commands


ADDRESS = "127.0.0.1:9455"


def add(commands: _Commands) -> None:
    """Describe the command."""
    exporter = add_command(
        commands,
        "exporter",
        run,
        both=True,
        family="both",
        many=True,
        help="give the counters of all rules to Prometheus",
        description="Give the counters of all rules to Prometheus. The exporter answers requests over HTTP until "
        "it is ended; with --textfile it writes a file, and with --once it prints the counters once.",
    )
    add_selection(exporter, "the tables in use")
    exporter.add_argument("--once", action="store_true", help="print the metrics once, or write the file once, and end")
    exporter.add_argument(
        "--openmetrics", action="store_true", help="with --once: print OpenMetrics instead of the older text format"
    )
    exporter.add_argument(
        "--textfile", metavar="PATH", help="write the metrics to this file, for the textfile collector of node_exporter"
    )
    exporter.add_argument(
        "--interval",
        type=seconds,
        default=15,
        metavar="SECONDS",
        help="with --textfile: write the file every SECONDS. Default: 15",
    )
    exporter.add_argument(
        "--monotonic",
        action="store_true",
        help="export totals that never fall, also if the counters of the kernel are reset",
    )
    exporter.add_argument(
        "--max-rules", type=positive, metavar="N", help="export at most N rules and chains. Default: 100000"
    )
    exporter.add_argument(
        "--no-rule-label", action="store_true", help="leave out the label `rule', the text of the rule"
    )
    exporter.add_argument(
        "--retailnext", action="store_true", help="use the names and labels of retailnext's iptables_exporter"
    )
    web = exporter.add_argument_group("endpoint")
    web.add_argument(
        "--web.listen-address",
        dest="address",
        default=ADDRESS,
        metavar="HOST:PORT",
        help=f"the address on which to listen. Default: {ADDRESS}",
    )
    web.add_argument(
        "--web.telemetry-path",
        dest="path",
        default="/metrics",
        metavar="PATH",
        help="the path of the metrics. Default: /metrics",
    )
    web.add_argument(
        "--web.config.file",
        dest="config",
        metavar="FILE",
        help="a file with TLS settings and users, in the format of Prometheus' exporter-toolkit",
    )
    add_wait(
        exporter,
        False,
        "take the xtables lock for each read, and wait at most SECONDS for it. So no half-finished "
        "change is read. Default: read without the lock",
    )


def run(options: Namespace) -> int:
    """Run the command. Return the exit status."""
    import logging

    logging.basicConfig(stream=sys.stderr, format="iptc: %(message)s", level=logging.INFO)
    try:
        scraper = _scraper(options)
        try:
            return _export(options, scraper)
        finally:
            scraper.close()
    except Stopped as stop:
        if stop.number == signal.SIGTERM:
            return 0
        raise


def _scraper(options: Namespace) -> Any:
    from ..monitoring.exposition import MOST_RULES, Scraper
    from ..monitoring.labels import Naming

    naming = Naming(rule=not options.no_rule_label, details=not options.retailnext)
    sources = sources_of(options, options.wait)
    return Scraper(sources, naming, options.monotonic, options.max_rules or MOST_RULES, options.retailnext)


def _export(options: Namespace, scraper: Any) -> int:
    if options.textfile is not None:
        return _to_file(options, scraper)
    if options.once:
        scrape = scraper.scrape()
        text = scrape.text(options.openmetrics) + (b"# EOF\n" if options.openmetrics else b"")
        write(text.decode())
        return 0 if scrape.complete else 1
    from ..monitoring import endpoint

    return endpoint.serve(scraper, options.address, options.path, options.config)


def _to_file(options: Namespace, scraper: Any) -> int:
    from .files import PUBLIC, write_file

    due = time.monotonic()
    while True:
        scrape = scraper.scrape()
        # the collector is another user, and what it reads is published anyway
        write_file(options.textfile, scrape.text().decode(), PUBLIC)
        if options.once:
            return 0 if scrape.complete else 1
        # if writing took longer than the interval, the writes that were missed are left out
        due = max(due + options.interval, time.monotonic())
        time.sleep(due - time.monotonic() if due > time.monotonic() else 0)
