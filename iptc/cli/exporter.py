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


ADDRESS = "127.0.0.1:9455"


def add(commands: Any) -> None:
    """Describe the command."""
    exporter = add_command(
        commands,
        "exporter",
        run,
        both=True,
        family="both",
        many=True,
        help="the counters of all rules for Prometheus",
        description="Serve the counters of all rules to Prometheus; or write them to a file, or print them.",
    )
    add_selection(exporter, "those that are in use")
    exporter.add_argument("--once", action="store_true", help="print one scrape, or write one file, and end")
    exporter.add_argument("--openmetrics", action="store_true", help="with --once: as OpenMetrics")
    exporter.add_argument("--textfile", metavar="PATH", help="write this file, for node_exporter's textfile collector")
    exporter.add_argument(
        "--interval", type=seconds, default=15, metavar="SECONDS", help="with --textfile: write it so often (15)"
    )
    exporter.add_argument("--monotonic", action="store_true", help="totals that go on when counters are set back")
    exporter.add_argument("--max-rules", type=positive, metavar="N", help="series for so many rules at most (100000)")
    exporter.add_argument("--no-rule-label", action="store_true", help="without the text of rules, which may be long")
    exporter.add_argument("--retailnext", action="store_true", help="names and labels of retailnext's exporter")
    web = exporter.add_argument_group("endpoint")
    web.add_argument(
        "--web.listen-address", dest="address", default=ADDRESS, metavar="HOST:PORT", help=f"listen there ({ADDRESS})"
    )
    web.add_argument("--web.telemetry-path", dest="path", default="/metrics", metavar="PATH", help="(/metrics)")
    web.add_argument("--web.config.file", dest="config", metavar="FILE", help="TLS and users, as exporter-toolkit has")
    add_wait(exporter, False, "read under the xtables lock, so that no commit is seen half done")


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
