"""Policy: what happens to a packet at the end of a builtin chain."""

from __future__ import annotations

import weakref


class Policy:
    """The policy of a builtin chain. There is one object for each name. The kernel takes ACCEPT and DROP only."""

    ACCEPT = "ACCEPT"
    DROP = "DROP"
    QUEUE = "QUEUE"
    RETURN = "RETURN"

    name: str

    _cache: weakref.WeakValueDictionary[str, Policy] = weakref.WeakValueDictionary()

    def __new__(cls, name: str) -> Policy:
        policy = cls._cache.get(name)
        if policy is None:
            policy = object.__new__(cls)
            policy.name = name
            cls._cache[name] = policy
        return policy

    def __reduce__(self) -> tuple[type[Policy], tuple[str]]:
        return type(self), (self.name,)

    def __repr__(self) -> str:
        return f"<iptc.Policy {self.name}>"
