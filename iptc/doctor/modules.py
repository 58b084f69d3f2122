"""Which modules of netfilter this kernel has, as its files say it: nothing is loaded to find out."""

from __future__ import annotations

import glob
import gzip
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    _State = tuple[str, str, str]

HERE, LOADABLE, KEPT_OUT, ABSENT, UNKNOWN = "here", "loadable", "kept out", "absent", "unknown"
"""The state of a module: built into the kernel; loaded when needed; blocked by the host's configuration; missing;
unknown."""


class Modules:
    """The modules of the running kernel, read from /lib/modules and from the kernel's configuration."""

    def __init__(self, root: str = "", release: str | None = None) -> None:
        self.release = release or os.uname().release
        self._root = root
        self.folder = f"{root}/lib/modules/{self.release}"
        self.has_folder = os.path.isdir(self.folder)
        self.is_modular = os.path.exists(f"{root}/proc/modules")
        self.is_closed = self._line("/proc/sys/kernel/modules_disabled") == "1"
        self._loaded = {line.split(" ", 1)[0] for line in self._lines("/proc/modules")}
        self._built_in = {_module(line) for line in self._lines(f"/lib/modules/{self.release}/modules.builtin")}
        files = (line.partition(":")[0] for line in self._lines(f"/lib/modules/{self.release}/modules.dep"))
        self._files = {_module(file) for file in files}
        self._aliases = self._read_aliases()
        self._kept_out = self._read_kept_out()
        self.config = self._read_config()

    @property
    def can_load(self) -> bool:
        """Whether the kernel may load a module at all."""
        return self.is_modular and not self.is_closed

    def state(self, names: Sequence[str], symbols: Sequence[str] = ()) -> _State:
        """Return (state, module, why) of the first module that answers to one of *names*. *symbols* are its names in
        the kernel's configuration."""
        found = (UNKNOWN, names[0], "")
        for name in names:
            for module in [*self._aliases.get(_plain(name), ()), _plain(name)]:
                if module in self._built_in or module in self._loaded:
                    return HERE, module, ""
                if module in self._files:
                    why = self._kept_out.get(module) or self._kept_out.get(_plain(name))
                    if why is None and self.can_load:
                        return LOADABLE, module, ""
                    found = KEPT_OUT, module, why or "the kernel loads no modules any more"
        if found[0] == KEPT_OUT:
            return found
        set_to = [self.config[symbol] for symbol in symbols if symbol in self.config]
        if "y" in set_to:
            return HERE, names[0], ""
        if self.has_folder and (self._files or self._built_in):
            return ABSENT, names[0], "this kernel's modules do not have it"
        if self.config and "m" not in set_to:
            return ABSENT, names[0], "this kernel was built without it"
        return UNKNOWN, names[0], ""

    def _lines(self, path: str) -> list[str]:
        try:
            with open(self._root + path, errors="replace") as file:
                return file.read().splitlines()
        except OSError:
            return []

    def _line(self, path: str) -> str:
        return "".join(self._lines(path)[:1])

    def _read_aliases(self) -> dict[str, list[str]]:
        """Return {alias: [module]} of modules that can be loaded and of modules that are built in."""
        found: dict[str, list[str]] = {}
        for line in self._lines(f"/lib/modules/{self.release}/modules.alias"):
            words = line.split()
            if len(words) == 3 and words[0] == "alias":
                found.setdefault(_plain(words[1]), []).append(_plain(words[2]))
        # entries of the form module.alias=name, each with a NUL behind it
        for line in "\n".join(self._lines(f"/lib/modules/{self.release}/modules.builtin.modinfo")).split("\0"):
            module, _, said = line.partition(".")
            if said.startswith("alias="):
                found.setdefault(_plain(said[6:]), []).append(_plain(module))
        return found

    def _read_kept_out(self) -> dict[str, str]:
        """Return {module: why the host's configuration blocks it}."""
        found: dict[str, str] = {}
        for folder in ("/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"):
            for path in sorted(glob.glob(f"{glob.escape(self._root + folder)}/*.conf")):
                path = path[len(self._root) :]
                for line in self._lines(path):
                    words = line.split()
                    if words[:1] == ["blacklist"] and len(words) == 2:
                        found.setdefault(_plain(words[1]), f"it is on the blacklist in {path}")
                    elif words[:1] == ["install"] and len(words) > 2 and words[2] in ("/bin/false", "/bin/true"):
                        found.setdefault(_plain(words[1]), f"{path} forbids to load it")
        return found

    def _read_config(self) -> dict[str, str]:
        """Return {symbol: "y" or "m"} of the kernel's configuration, or {} if it is not known."""
        for path in ("/proc/config.gz", f"/boot/config-{self.release}", f"/lib/modules/{self.release}/config"):
            try:
                with (gzip.open if path.endswith(".gz") else open)(self._root + path, "rt", errors="replace") as file:
                    pairs = [line.strip().split("=", 1) for line in file if line.startswith("CONFIG_")]
            except OSError:
                continue
            return {name.removeprefix("CONFIG_"): value for name, value in pairs}
        return {}


def _plain(name: str) -> str:
    """Return the name of a module or alias in the form in which the kernel compares names."""
    return name.replace("-", "_")


def _module(path: str) -> str:
    """Return the name of the module in a file such as `kernel/net/netfilter/xt_LOG.ko.xz`."""
    return _plain(os.path.basename(path).partition(".ko")[0])
