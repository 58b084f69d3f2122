"""The object of the pytest fixture `firewall`: a ruleset, and questions about packets."""

from __future__ import annotations

import os

from ..errors import ParameterError
from . import expecting
from .bench import Bench
from .coverage import Coverage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .verdict import Verdict


class Answer:
    """The answer to a question about a packet. It is true or false. `verdict` is the `iptc.Verdict`, `wrong` a list of
    what differs from what was expected."""

    __slots__ = ("verdict", "wrong", "_question")

    def __init__(self, question: str, verdict: Verdict, wrong: list[str]) -> None:
        self._question = question
        self.verdict = verdict
        self.wrong = wrong

    def __bool__(self) -> bool:
        return not self.wrong

    def __repr__(self) -> str:
        return f"<{'; '.join(self.wrong) or self.verdict}>"

    def way(self) -> str:
        """Return the question, what is wrong, and the way of the packet."""
        return "\n".join([self._question, *self.wrong, self.verdict.way()])


class Firewall:
    """A ruleset through which packets are sent.

    `load` takes the rules. *defaults* are the defaults of its arguments. The questions are `accepts`, `drops`,
    `rejects`, `queues`, `loses` and `nats`. Their first argument is the interface at which the packet comes in, or None
    for a packet of the host itself. The other arguments are those of `iptc.Bench.send`, with the same defaults, and:

    *rule*: a part of the text or place of the rule. *out*: the interface by which the packet leaves. *to* and *source*:
        its destination and source when it leaves, with or without the port. *reject*: the kind of answer.
    """

    def __init__(self, **defaults: Any) -> None:
        self._defaults = defaults
        self._bench: Bench | None = None
        self._source = ""
        self.coverage = Coverage()
        self.failed: list[Answer] = []

    def load(self, rules: Any = None, interfaces: Any = None, **options: Any) -> Firewall:
        """Load *rules*: a path, a text or a `Ruleset`. *interfaces* and *options* are as for `iptc.Bench`."""
        given = {**self._defaults, **options}
        if rules is not None:
            given["rules"] = rules
        if interfaces is not None:
            given["interfaces"] = interfaces
        if given.get("rules") is None:
            raise ParameterError("firewall.load() needs rules: a path, a text or a Ruleset")
        self.close()
        source = given["rules"]
        named = isinstance(source, str) and "\n" not in source or hasattr(source, "__fspath__")
        self._source = os.fspath(source) if named else ""
        self._bench = Bench(**given)
        self._bench.open()
        return self

    def close(self) -> None:
        """Close the bench, and add its counters to `coverage`."""
        bench, self._bench = self._bench, None
        if bench is not None:
            try:
                self.coverage.add(bench.ruleset(), self._source)
            finally:
                bench.close()

    @property
    def bench(self) -> Bench:
        """The `iptc.Bench` with the rules."""
        if self._bench is None:
            self.load()
        assert self._bench is not None
        return self._bench

    def send(self, interface: str | None, **packet: Any) -> Verdict:
        """Send a packet, and return its `iptc.Verdict`."""
        return self.bench.send(interface, **packet)

    def _ask(self, word: str, expected: str | None, interface: str | None, words: dict[str, Any]) -> Answer:
        besides = {key: words.pop(key) for key in list(words) if key in expecting.BESIDES}
        verdict = self.send(interface, **words)
        said = ", ".join([repr(interface), *(f"{key}={value!r}" for key, value in {**words, **besides}.items())])
        wrong = expecting.complaints(verdict, expected, besides)
        if word == "nats" and not verdict.nat:
            wrong.append(f"a rule of table nat was expected to take it, and none did: it is {verdict}")
        answer = Answer(f"firewall.{word}({said})", verdict, wrong)
        if wrong:
            self.failed.append(answer)
        return answer

    def accepts(self, interface: str | None, **words: Any) -> Answer:
        """Whether the packet arrives: at the host, or out of an interface."""
        return self._ask("accepts", "ACCEPT", interface, words)

    def drops(self, interface: str | None, **words: Any) -> Answer:
        """Whether a rule or a policy drops the packet, without an answer."""
        return self._ask("drops", "DROP", interface, words)

    def rejects(self, interface: str | None, **words: Any) -> Answer:
        """Whether a rule refuses the packet with an answer."""
        return self._ask("rejects", "REJECT", interface, words)

    def queues(self, interface: str | None, **words: Any) -> Answer:
        """Whether a rule hands the packet to a program (NFQUEUE)."""
        return self._ask("queues", "QUEUE", interface, words)

    def loses(self, interface: str | None, **words: Any) -> Answer:
        """Whether no rule drops the packet, and it does not arrive either: it has no route, say."""
        return self._ask("loses", "LOST", interface, words)

    def nats(self, interface: str | None, **words: Any) -> Answer:
        """Whether the packet arrives, and a rule of table nat has matched it. *to* and *source*: its new addresses."""
        return self._ask("nats", "ACCEPT", interface, words)
