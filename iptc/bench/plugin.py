"""The pytest plugin: the fixture `firewall`, and a report of the rules that the tests have hit."""

from __future__ import annotations

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .coverage import Coverage
    from .firewall import Firewall

_KEY = "iptc_coverage"


def pytest_addoption(parser: Any) -> None:
    """Add the command line options and the ini settings."""
    group = parser.getgroup("iptc", "rulesets (iptc)")
    group.addoption("--rule-coverage", action="store_true", help="print which rules no test has hit")
    group.addoption(
        "--rule-coverage-min",
        type=float,
        default=None,
        metavar="PERCENT",
        help="fail where the tests have hit fewer rules of a hundred (prints the table too)",
    )
    parser.addini("iptc_rules", "the rules that the fixture firewall has before firewall.load(): a path")
    parser.addini("iptc_rules6", "the rules of IPv6: a path")
    parser.addini("iptc_interfaces", "the interfaces: lines of NAME=ADDRESS/LEN", type="linelist")
    parser.addini("iptc_routes", "the routes: lines as `ip route add' takes them", type="linelist")
    parser.addini("iptc_backend", "legacy or nft; otherwise the one that is in use")


def _defaults(config: Any) -> dict[str, Any]:
    """Return the arguments of a bench from the ini settings."""
    found: dict[str, Any] = {}
    for key, argument in (("iptc_rules", "rules"), ("iptc_rules6", "rules6")):
        if config.getini(key):
            found[argument] = config.rootpath / config.getini(key)
    interfaces = dict(line.split("=", 1) for line in config.getini("iptc_interfaces"))
    if interfaces:
        found["interfaces"] = interfaces
    if config.getini("iptc_routes"):
        found["routes"] = config.getini("iptc_routes")
    if config.getini("iptc_backend"):
        found["backend"] = config.getini("iptc_backend")
    return found


@pytest.fixture
def firewall(request: Any) -> Iterator[Firewall]:
    """A ruleset in a private network namespace: firewall.load("rules.v4"), then firewall.drops("eth0", tcp=22) and the
    like. See `iptc.bench.firewall.Firewall`."""
    from .firewall import Firewall

    made = Firewall(**_defaults(request.config))
    request.node._iptc_firewall = made
    yield made
    made.close()
    _coverage(request.config).merge(made.coverage.rows())


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Any:
    """Add the way of each packet with a wrong answer to the report of a failed test."""
    outcome = yield
    report = outcome.get_result()
    made = getattr(item, "_iptc_firewall", None)
    if made is not None and report.when == "call" and report.failed and made.failed:
        report.sections.append(("firewall", "\n\n".join(answer.way() for answer in made.failed[-3:])))


# ------------------------------------------------------------------- coverage


def _coverage(config: Any) -> Coverage:
    """Return the coverage of this session."""
    from .coverage import Coverage

    found = getattr(config, "_iptc_coverage", None)
    if found is None:
        found = config._iptc_coverage = Coverage()
    return found


def _is_wanted(config: Any) -> bool:
    return bool(config.getoption("--rule-coverage")) or config.getoption("--rule-coverage-min") is not None


def _is_too_low(config: Any) -> bool:
    least = config.getoption("--rule-coverage-min")
    return least is not None and _coverage(config).percent < least


def pytest_sessionfinish(session: Any) -> None:
    """Pass the coverage of a worker of pytest-xdist to its controller. Fail if the coverage is too low."""
    config = session.config
    if not _is_wanted(config):
        return
    if hasattr(config, "workeroutput"):
        config.workeroutput[_KEY] = _coverage(config).rows()
    elif _is_too_low(config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    """Receive the coverage of a worker of pytest-xdist."""
    _coverage(node.config).merge(getattr(node, "workeroutput", {}).get(_KEY, []))


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    """Print which rules were not hit."""
    if not _is_wanted(config):
        return
    coverage = _coverage(config)
    terminalreporter.section("coverage of rules")
    terminalreporter.write_line(coverage.table())
    if _is_too_low(config):
        least = config.getoption("--rule-coverage-min")
        terminalreporter.write_line(
            f"FAIL: {coverage.percent:.1f}% of the rules were hit; {least:g}% were asked for", red=True
        )
