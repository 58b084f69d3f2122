"""The metrics of a guard for a Prometheus server."""

from __future__ import annotations

from ..monitoring.exposition import Metric, Scrape
from ..monitoring.labels import written

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .guard import Guard


def metrics_of(owner: str, guard: Guard) -> bytes:
    """Return the metrics of the *guard* of *owner* in the text format of Prometheus."""
    labels = written([("owner", owner)])
    heals = Metric("iptables_guard_heals", "counter", "How often rules of the owner were put back.")
    heals.add(labels, guard.heals)
    pauses = Metric("iptables_guard_pauses", "counter", "How often a fight was let be for a while.")
    pauses.add(labels, guard.pauses)
    families = [heals, pauses]
    if guard.last_heal is not None:
        last = Metric("iptables_guard_last_heal_timestamp_seconds", "gauge", "When rules were put back last.")
        last.add(labels, guard.last_heal)
        offender = Metric("iptables_guard_last_offender_info", "gauge", "Who broke the rules last.")
        by = guard.last_offender
        said = [("pid", "" if by is None else str(by.pid)), ("name", "" if by is None else by.name)]
        offender.add(written([("owner", owner), *said]), 1)
        families += [last, offender]
    return Scrape(families, True).text()
