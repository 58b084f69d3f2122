"""Reads and prints mutated specifications: `python mutations.py SEED COUNT`, in a process of its own, since a crash
ends it.

It prints how many were accepted and how many were refused. Any other exception than the package's own is an error, and
so is a descriptor that is left open or was closed.
"""

import os
import random
import sys
import warnings

import specs

import iptc
from iptc.language.restored_text import Reader

WORDS = (
    "! - -- -s -d -p -i -o -j -g -m -c -f -4 -6 -A -D -N -E -t -w 0 -1 1: :1 2-1 65536 4294967296 18446744073709551616 / /0 /33 :: "
    "1.2.3.4,5.6.7.8 %s%n \" \\ ' # | , ="
).split()


class Mutator:
    """Makes new texts of given ones."""

    def __init__(self, seed, texts):
        self.random = random.Random(seed)
        self.texts = texts
        self.words = WORDS + sorted({word for text in texts for word in text.split(" ")})

    def text(self):
        """Return one of the texts with one to three changes."""
        words = self.random.choice(self.texts).split(" ")
        for _ in range(self.random.choice((1, 1, 2, 3))):
            at = self.random.randrange(len(words) + 1)
            change = self.random.randrange(6)
            if change == 0:
                words.insert(at, self.random.choice(self.words))
            elif change == 1:
                words[at : at + 1] = [self.random.choice(self.words)]
            elif change == 2:
                del words[at : at + 1]
            elif change == 3:
                words[at:at] = self.random.choice(self.texts).split(" ")[:3]
            else:
                words[at : at + 1] = [self._characters(word) for word in words[at : at + 1]]
        return " ".join(words)

    def _characters(self, word):
        at = self.random.randrange(len(word) + 1)
        change = self.random.randrange(4)
        if change == 0:
            return word[:at] + word[at + 1 :]
        if change == 1:
            return word[:at] + word[at : at + 1] * self.random.choice((2, 20, 300)) + word[at:]
        return word[:at] + self.random.choice("\x01\t\n\"'\\!,:/-+09aZé\udcff") + word[at + change - 2 :]


def read_rule(cls, text):
    rule = cls.from_args(text)
    for one in rule.expand():
        one.to_args()
        hash(one)


def read_words(cls, text):
    str(cls.from_args(text.split(" ")))


def read_file(cls, text):
    reader = Reader(cls._nfproto, True)
    data = f"*filter\n:INPUT DROP [1:2]\n[3:4] -A INPUT {text}\n-D INPUT {text}\nCOMMIT\n".encode(
        "utf-8", "surrogateescape"
    )
    for piece, last in ((data[:40], False), (data[40:], True)):
        for _, _, restored in reader.feed(piece, last):
            if restored is not None:
                restored.commands()
    reader.finish()


def main(seed, count):
    warnings.simplefilter("ignore")
    mutators = []
    for ipv6, cls in ((False, iptc.Rule), (True, iptc.Rule6)):
        texts = [spec.text for spec in specs.load(ipv6)] + [
            spec.text for spec in specs.load_invalid() if spec.ipv6 == ipv6
        ]
        mutators.append((cls, Mutator(seed, texts)))
    descriptors = os.listdir("/proc/self/fd")
    accepted = refused = 0
    for i in range(count):
        cls, mutator = mutators[i % 2]
        text = mutator.text()
        try:
            (read_rule, read_rule, read_words, read_file)[i // 2 % 4](cls, text)
            accepted += 1
        except iptc.ParameterError:
            refused += 1
        except BaseException:
            print(f"{cls.__name__}: {text!r}", file=sys.stderr)
            raise
    if os.listdir("/proc/self/fd") != descriptors:
        raise AssertionError("a descriptor was opened or closed")
    print(accepted, refused)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
