"""Make iptc/bpf/program.bin of iptc/bpf/program.c: see scripts/bpf.

clang compiles the source to an object file. From that, only what the kernel needs is written: for each program its
instructions, followed by those of the functions that it calls; the instructions that name maps; and the types of its
functions, which the kernel requires for callback functions.
"""

import argparse
import base64
import hashlib
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
from collections import namedtuple

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "iptc" / "bpf"
SOURCES = [FOLDER / "program.c", FOLDER / "program.h"]
RESULT = FOLDER / "program.bin"
FORM = 1
INSTRUCTION = 8
CALL, LOAD_IMMEDIATE = 0x85, 0x18
TO_FUNCTION, FUNCTION_ADDRESS = 1, 4  # in the place of the source register

Section = namedtuple("Section", "name kind link info data")
Symbol = namedtuple("Symbol", "name kind section value size")
MAP_SECTIONS = {"maps", ".maps"}
MEMORY_SECTIONS = {".bss", ".data", ".rodata"}


def clang_version(clang="clang"):
    """Return the first line of `clang --version`, or None if no clang can compile programs for the kernel."""
    try:
        done = subprocess.run([clang, "--version"], capture_output=True, text=True)
        targets = subprocess.run([clang, "--print-targets"], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and " bpfel " in targets.stdout else None


def source_hash(sources=SOURCES):
    """Return a digest of the *sources*."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()


def compile_source(clang, source):
    """Compile *source*. Return the object file as bytes."""
    multiarch = subprocess.run(["cc", "-print-multiarch"], capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        made = pathlib.Path(folder, "program.o")
        command = [clang, "-target", "bpfel", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"]
        command += [f"-ffile-prefix-map={source.parent}=."]
        command += ["-idirafter", f"/usr/include/{multiarch}"] if multiarch else []
        subprocess.run([*command, "-c", str(source), "-o", str(made)], check=True)
        return made.read_bytes()


class Object:
    """An object file of clang, with the parts of ELF that are needed here."""

    def __init__(self, data):
        assert data[:6] == b"\x7fELF\x02\x01", "not a 64-bit object file whose lowest byte comes first"
        (start,) = struct.unpack_from("<Q", data, 40)
        size, count, names = struct.unpack_from("<HHH", data, 58)
        heads = [struct.unpack_from("<IIQQQQIIQQ", data, start + size * number) for number in range(count)]
        bodies = [b"" if head[1] == 8 else data[head[4] : head[4] + head[5]] for head in heads]
        self.sections = [
            Section(text_at(bodies[names], head[0]), head[1], head[6], head[7], body)
            for head, body in zip(heads, bodies)
        ]
        table = next(section for section in self.sections if section.kind == 2)
        strings = self.sections[table.link].data
        self.symbols = [
            Symbol(text_at(strings, name), info & 15, section, value, size)
            for name, info, _, section, value, size in struct.iter_unpack("<IBBHQQ", table.data)
        ]

    def number(self, name):
        """Return the number of the section *name*."""
        return next(number for number, section in enumerate(self.sections) if section.name == name)

    def relocations(self, number):
        """Return {offset: symbol} of the relocations of section *number*."""
        found = {}
        for section in self.sections:
            if section.kind == 9 and section.info == number:
                for offset, info in struct.iter_unpack("<QQ", section.data):
                    found[offset] = self.symbols[info >> 32]
        return found

    def function_at(self, section, offset):
        """Return the function that begins at *offset* of a section."""
        return next(
            symbol
            for symbol in self.symbols
            if symbol.kind == 2 and symbol.section == section and symbol.value == offset
        )

    def programs(self):
        """Return the functions that the kernel calls: those in a section that names a kind of program."""
        functions = [symbol for symbol in self.symbols if symbol.kind == 2]
        return [symbol for symbol in functions if self.sections[symbol.section].name != ".text"]


def text_at(strings, offset):
    """Return the string that begins at *offset*."""
    return strings[offset : strings.index(b"\0", offset)].decode()


class Types:
    """The BTF of an object file. `part` makes a smaller one of it."""

    NO_MORE = {2, 7, 8, 9, 10, 11, 12, 16, 18}
    ONE_TYPE = {2, 8, 9, 10, 11, 12, 14, 17, 18}

    def __init__(self, data):
        header, types_at, types_length, strings_at, strings_length = struct.unpack_from("<IIIII", data, 4)
        self.strings = data[header + strings_at :][:strings_length]
        self.records = [None]
        rest = data[header + types_at :][:types_length]
        while rest:
            _, info, _ = struct.unpack_from("<III", rest)
            length = 12 + self.more(info >> 24 & 31, info & 0xFFFF)
            self.records.append(rest[:length])
            rest = rest[length:]

    def more(self, kind, members):
        """Return how many bytes follow a record."""
        if kind in self.NO_MORE:
            return 0
        return {1: 4, 14: 4, 17: 4, 3: 12, 6: 8 * members, 13: 8 * members}.get(kind, 12 * members)

    def fields(self, number):
        """Return (kind, the offsets of type numbers in the record, the offsets of names in it)."""
        record = self.records[number]
        _, info, _ = struct.unpack_from("<III", record)
        kind, members = info >> 24 & 31, info & 0xFFFF
        types = [8] if kind in self.ONE_TYPE else []
        names = [0]
        if kind == 3:
            types += [12, 16]
        elif kind in (4, 5):
            names += [12 + 12 * i for i in range(members)]
            types += [16 + 12 * i for i in range(members)]
        elif kind in (6, 19):
            names += [12 + (8 if kind == 6 else 12) * i for i in range(members)]
        elif kind == 13:
            types += [8, *(16 + 8 * i for i in range(members))]
            names += [12 + 8 * i for i in range(members)]
        assert kind not in (14, 15, 17), f"a function needs no type of kind {kind}"
        return kind, types, names

    def part(self, wanted):
        """Return (BTF with the types *wanted* and all that they use, {old type number: new type number})."""
        numbers, waiting = {0: 0}, list(wanted)
        while waiting:
            number = waiting.pop(0)
            if number not in numbers:
                numbers[number] = len(numbers)
                _, types, _ = self.fields(number)
                waiting += [struct.unpack_from("<I", self.records[number], at)[0] for at in types]
        strings, places, records = bytearray(b"\0"), {"": 0}, []
        for number in numbers:
            if not number:
                continue
            record = bytearray(self.records[number])
            _, types, names = self.fields(number)
            for at in types:
                struct.pack_into("<I", record, at, numbers[struct.unpack_from("<I", record, at)[0]])
            for at in names:
                name = text_at(self.strings, struct.unpack_from("<I", record, at)[0])
                if name not in places:
                    places[name] = len(strings)
                    strings += name.encode() + b"\0"
                struct.pack_into("<I", record, at, places[name])
            records.append(bytes(record))
        body = b"".join(records)
        header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(strings))
        return header + body + bytes(strings), numbers


def function_types(made, types):
    """Return {(section, offset): type number} of all functions, from the section .BTF.ext."""
    data = made.sections[made.number(".BTF.ext")].data
    header, at, length = struct.unpack_from("<III", data, 4)
    part = data[header + at :][:length]
    (size,) = struct.unpack_from("<I", part)
    at, found = 4, {}
    while at < len(part):
        name, count = struct.unpack_from("<II", part, at)
        at += 8
        section = made.number(text_at(types.strings, name))
        for _ in range(count):
            offset, number = struct.unpack_from("<II", part, at)
            found[section, offset] = number
            at += size
    return found


def link(made, program):
    """Return (the instructions of *program* and of all functions that it calls, {function: its first instruction}, the
    instructions that name maps)."""
    code, begins, maps, calls, waiting = bytearray(), {}, [], [], [program]
    while waiting:
        function = waiting.pop(0)
        if function in begins:
            continue
        begins[function] = start = len(code) // INSTRUCTION
        code += made.sections[function.section].data[function.value :][: function.size]
        relocations = made.relocations(function.section)
        at = start
        while at < len(code) // INSTRUCTION:
            operation, registers, _, immediate = struct.unpack_from("<BBhi", code, at * INSTRUCTION)
            offset = function.value + (at - start) * INSTRUCTION
            symbol, source, called = relocations.get(offset), registers >> 4, None
            if operation == CALL and source == TO_FUNCTION:
                if symbol is None:
                    called = made.function_at(function.section, offset + (immediate + 1) * INSTRUCTION)
                else:
                    called = made.function_at(symbol.section, symbol.value + (immediate + 1) * INSTRUCTION)
            elif operation == LOAD_IMMEDIATE and symbol is not None:
                name = made.sections[symbol.section].name
                if name in MAP_SECTIONS:
                    maps.append([at, symbol.name, False, 0])
                elif name in MEMORY_SECTIONS:
                    maps.append([at, name, True, symbol.value + immediate])
                else:
                    called = made.function_at(symbol.section, symbol.value + immediate)
            else:
                assert symbol is None, f"{symbol.name} is used in a way that this does not know"
            if called is not None:
                calls.append((at, called))
                waiting.append(called)
            at += 2 if operation == LOAD_IMMEDIATE else 1
    for at, called in calls:
        operation, registers, jump, _ = struct.unpack_from("<BBhi", code, at * INSTRUCTION)
        source = TO_FUNCTION if operation == CALL else FUNCTION_ADDRESS
        distance = begins[called] - at - 1
        struct.pack_into("<BBhi", code, at * INSTRUCTION, operation, registers & 15 | source << 4, jump, distance)
    return bytes(code), begins, maps


def build(clang="clang", sources=SOURCES):
    """Return the content of program.bin, as *clang* makes it of *sources*: a C file and the files that it includes."""
    made = Object(compile_source(clang, sources[0]))
    types = Types(made.sections[made.number(".BTF")].data)
    of_function = function_types(made, types)
    linked = [(program, *link(made, program)) for program in sorted(made.programs(), key=lambda its: its.name)]
    wanted = [of_function[its.section, its.value] for _, _, begins, _ in linked for its in begins]
    part, numbers = types.part(wanted)
    programs = {}
    for program, code, begins, maps in linked:
        functions = [[start, numbers[of_function[its.section, its.value]]] for its, start in begins.items()]
        programs[program.name] = {
            "kind": made.sections[program.section].name,
            "code": base64.b64encode(code).decode(),
            "functions": functions,
            "maps": maps,
        }
    said = {
        "form": FORM,
        "clang": clang_version(clang),
        "source": source_hash(sources),
        "types": base64.b64encode(part).decode(),
        "programs": programs,
    }
    return (json.dumps(said, indent=1, sort_keys=True) + "\n").encode()


def main():
    """Write the file, or with --check say whether it is up to date."""
    parser = argparse.ArgumentParser(prog="scripts/bpf", description=__doc__.split("\n")[0])
    parser.add_argument("--clang", default="clang", help="the compiler (clang)")
    parser.add_argument("--check", action="store_true", help="write nothing: 1 if the file is another one")
    arguments = parser.parse_args()
    if clang_version(arguments.clang) is None:
        sys.exit(f"scripts/bpf needs a clang that makes programs for the kernel, and {arguments.clang} is none.")
    made, its = build(arguments.clang), clang_version(arguments.clang)
    if arguments.check:
        ours = RESULT.read_bytes()
        maker = json.loads(ours)["clang"]
        if made != ours and its != maker:
            sys.exit(f"{RESULT} was made by {maker}, and {its} makes other bytes: check it with that compiler.")
        sys.exit(0 if made == ours else f"{RESULT} is not what {its} makes of the source: run scripts/bpf.")
    RESULT.write_bytes(made)
    print(f"{RESULT}: {len(made)} bytes, by {its}")


if __name__ == "__main__":
    main()
