"""Makes BTF, the kernel's description of its types: one type after the other, or all that the answers of another BTF say."""

import re
import struct

INT, PTR, ARRAY, STRUCT, UNION, TYPEDEF, CONST, FUNC, FUNC_PROTO, VAR, DATASEC = 1, 2, 3, 4, 5, 8, 10, 12, 13, 14, 15


class Made:
    """Types, one after the other, as BTF."""

    def __init__(self, first_type=1, first_string=0):
        self.records, self.strings, self.first_string = [], bytearray(b"\0"), first_string
        self.next, self.number_of = first_type, {}

    def text(self, name):
        """Where the string *name* is."""
        if not name:
            return 0
        self.strings += name.encode() + b"\0"
        return self.first_string + len(self.strings) - len(name.encode()) - 1

    def add(self, kind, name="", size_or_type=0, more=b"", count=0, flag=0):
        """One more; its number."""
        self.records.append(struct.pack("<III", self.text(name), flag << 31 | kind << 24 | count, size_or_type) + more)
        self.number_of[name] = self.next
        self.next += 1
        return self.next - 1

    def number(self, name="u32", size=4, bits=32, first=0):
        """A number."""
        return self.add(INT, name, size, struct.pack("<I", first << 16 | bits))

    def structure(self, name, size, members, kind=STRUCT, flag=0):
        """A structure of (name, type, offset in bits)."""
        more = b"".join(struct.pack("<III", self.text(its), number, offset) for its, number, offset in members)
        return self.add(kind, name, size, more, len(members), flag)

    def data(self):
        """All of them."""
        body = b"".join(self.records)
        head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(self.strings))
        return head + body + self.strings


def made_of(shapes, functions=(), variables=(), typedefs=()):
    """Return BTF with these structures, functions, variables and typedefs.

    *shapes*: {name of a structure: (its bytes, {path of a member: (offset, width), in bits})}. A path may have parts, such as
    "list.next" or "tables[2].next". *functions*: {name: names of its arguments}. *variables*: {section: {name: (offset,
    size)}}.
    """
    made, sized = Made(), {}

    def of_size(size):
        """A type of so many bytes."""
        if size not in sized:
            sized[size] = made.structure("", size, [])
        return sized[size]

    def bits(offset, width):
        """How a member says where it is, in a structure with the flag that says that there may be bit-fields."""
        assert offset < 1 << 24
        return offset if width % 8 == 0 and offset % 8 == 0 else width << 24 | offset

    def member(path, size, offset, width):
        """(name, type, offset) of a member, and of the structures around the last part of its path."""
        first, _, rest = path.partition(".")
        indexed = re.fullmatch(r"(.*)\[(\d+)\]", first)
        if not rest and not indexed:
            return first, of_size((width + 7) // 8), bits(offset, width)
        if not indexed:
            # the structure within begins where the outer one begins, and has its size
            return first, made.structure("", size, [member(rest, size, offset, width)], flag=1), 0
        # the array begins where the outer structure begins, and the item that is meant is as near as possible
        name, index = indexed[1], int(indexed[2])
        item, within = divmod(offset // 8, index) if index else (size, offset // 8)
        inner = made.structure("", item, [member(rest, item, within * 8, width)], flag=1)
        return name, made.add(ARRAY, "", 0, struct.pack("<III", inner, inner, index + 1)), 0

    for name, (size, members) in shapes.items():
        grouped = {}
        for path, (offset, width) in members.items():
            grouped.setdefault(path.partition(".")[0], []).append((path, offset, width))
        rows = []
        for first, parts in grouped.items():
            if len(parts) == 1:
                rows.append(member(parts[0][0], size, *parts[0][1:]))
            else:
                inner = [member(path.partition(".")[2], size, offset, width) for path, offset, width in parts]
                rows.append((first, made.structure("", size, inner, flag=1), 0))
        made.structure(name, size, rows, flag=1)
    for name, arguments in dict(functions).items():
        more = b"".join(struct.pack("<II", made.text(argument), 0) for argument in arguments)
        made.add(FUNC, name, made.add(FUNC_PROTO, "", 0, more, len(arguments)))
    for section, its in dict(variables).items():
        more = b""
        for name, (offset, size) in its.items():
            number = made.add(VAR, name, of_size(size), struct.pack("<I", 0))
            more += struct.pack("<III", number, offset, size)
        made.add(DATASEC, section, 1 << 24, more, len(its))
    for name in typedefs:
        made.add(TYPEDEF, name, of_size(8))
    return made.data()
