"""A table of the legacy back end (`ip_tables`, `ip6_tables`): read its blob, replay edits on a draft of it."""

import errno

from . import _blob, _draft
from .edits import ChainView, Replay, View
from .errors import Conflict

_RETRIES = 16


class LegacyTable:
    """Read and write one table of one family; the edits themselves are in `edits`."""

    def __init__(self, nfproto, name):
        self.nfproto = nfproto
        self.name = name

    def read(self):
        """Return the table as it is in the kernel now (`IPT_SO_GET_ENTRIES`), as a `View`."""
        return self._view(_blob.TableBlob(self.nfproto, self.name))

    def _view(self, snapshot):
        return View(self.nfproto, [self._chain(snapshot, *row) for row in snapshot.chains])

    def _chain(self, snapshot, name, policy, counters, first, end):
        return ChainView(self.nfproto, name, policy, counters, lambda: snapshot.chain_entries(first, end))

    def commit(self, operations, lock):
        """Apply *operations* to the table as it is now and send it, under *lock*; all of them or none.

        EAGAIN, from a writer that takes no lock, reads again and replays.
        """
        with lock:
            for attempt in range(_RETRIES):
                blob = _blob.TableBlob(self.nfproto, self.name)
                draft = _draft.Draft(blob)
                try:
                    Replay(draft, lambda: self._view(blob), operations).run()
                    draft.commit()
                    return
                except Conflict as conflict:
                    if conflict.errno != errno.EAGAIN or attempt + 1 == _RETRIES:
                        raise
                finally:
                    draft.close()
