"""Damage to the bytes of a database: what a disk or a bent tool does, and what somebody does who knows the format.

Each function takes the file's pages and bends them; all chance is `pages.rng`.
"""

from __future__ import annotations

import struct


class Pages:
    """A database file as bytes, page by page."""

    def __init__(self, data, rng):
        self.data = bytearray(data)
        self.rng = rng
        self.size = struct.unpack(">H", data[16:18])[0] or 4096

    @property
    def count(self):
        return len(self.data) // self.size

    def page(self, number):
        return self.data[number * self.size : (number + 1) * self.size]

    def put(self, number, page):
        self.data[number * self.size : (number + 1) * self.size] = page

    def header_at(self, number):
        return number * self.size + (100 if number == 0 else 0)

    def trees(self, kinds=(2, 5, 10, 13)):
        """The numbers of the pages that are b-tree pages of those kinds."""
        return [number for number in range(self.count) if self.data[self.header_at(number)] in kinds] or [0]

    def cells(self, number):
        """Where the page's cell pointers stand, and how many they are."""
        at = self.header_at(number)
        kind = self.data[at]
        found = struct.unpack(">H", self.data[at + 3 : at + 5])[0]
        return at + (12 if kind in (2, 5) else 8), min(found, (self.size - 12) // 2)


def flip_bits(pages):
    for _ in range(pages.rng.choice((1, 1, 2, 8, 64))):
        pages.data[pages.rng.randrange(len(pages.data))] ^= 1 << pages.rng.randrange(8)


def flip_header(pages):
    for _ in range(pages.rng.choice((1, 2, 4))):
        pages.data[pages.rng.randrange(100)] = pages.rng.randrange(256)


def bend_header_field(pages):
    offset, size = pages.rng.choice(
        ((16, 2), (18, 1), (19, 1), (20, 1), (21, 1), (24, 4), (28, 4), (32, 4), (36, 4), (40, 4), (44, 4), (48, 4),
         (52, 4), (56, 4), (60, 4), (64, 4), (68, 4), (92, 4), (96, 4))
    )  # fmt: skip
    value = pages.rng.choice((0, 1, 2, 3, 5, 0x7F, 2**31 - 1, 2**32 - 1, pages.count, pages.count + 1))
    pages.data[offset : offset + size] = (value % 256**size).to_bytes(size, "big")


def flip_page_headers(pages):
    for _ in range(4):
        pages.data[pages.header_at(pages.rng.choice(pages.trees())) + pages.rng.randrange(12)] = pages.rng.randrange(
            256
        )


def swap_pages(pages):
    one, other = (pages.rng.randrange(1, pages.count) for _ in "12")
    first, second = pages.page(one), pages.page(other)
    pages.put(one, second)
    pages.put(other, first)


def repeat_page(pages):
    pages.put(pages.rng.randrange(1, pages.count), pages.page(pages.rng.choice(pages.trees())))


def random_page(pages):
    pages.put(pages.rng.randrange(pages.count), pages.rng.randbytes(pages.size))


def zero_page(pages):
    pages.put(pages.rng.randrange(pages.count), bytes(pages.size))


def splice(pages):
    length = pages.rng.randrange(1, 2 * pages.size)
    source, target = (pages.rng.randrange(len(pages.data) - length) for _ in "12")
    pages.data[target : target + length] = pages.data[source : source + length]


def truncate(pages):
    del pages.data[pages.rng.randrange(len(pages.data)) :]


def bend_cell_pointers(pages):
    number = pages.rng.choice(pages.trees())
    at, count = pages.cells(number)
    for index in range(count):
        if pages.rng.random() < 0.3:
            pages.data[at + 2 * index : at + 2 * index + 2] = pages.rng.randbytes(2)


def one_cell_many_times(pages):
    """A page on which as many pointers as it can hold point to one cell."""
    number = pages.rng.choice(pages.trees((10, 13)))
    at, count = pages.cells(number)
    if not count:
        return
    cell = bytes(pages.data[at : at + 2])
    room = (struct.unpack(">H", cell)[0] + number * pages.size - at) // 2 - 1
    many = max(count, min(room, (pages.size - 8) // 6 - 1))
    pages.data[at : at + 2 * many] = cell * many
    head = pages.header_at(number)
    pages.data[head + 3 : head + 5] = struct.pack(">H", many)


def point_children(pages):
    """Inner pages whose children are all one page: itself, its neighbour, or the one above."""
    for number in pages.trees((2, 5)):
        at, count = pages.cells(number)
        child = struct.pack(">I", pages.rng.choice((number + 1, pages.rng.randrange(1, pages.count + 1))))
        pages.data[pages.header_at(number) + 8 : pages.header_at(number) + 12] = child
        for index in range(count):
            cell = number * pages.size + struct.unpack(">H", pages.data[at + 2 * index : at + 2 * index + 2])[0]
            if pages.rng.random() < 0.8:
                pages.data[cell : cell + 4] = child


def bomb(pages):
    """A tower of inner pages, each of them hundreds of times the one below: a walk through it never ends."""
    root = pages.rng.choice(pages.trees((5, 13)) if pages.rng.random() < 0.5 else pages.trees((2, 10)))
    is_index = pages.data[pages.header_at(root)] in (2, 10)
    leaf = pages.rng.choice(pages.trees((10,) if is_index else (13,)))
    height = 8
    first = pages.count
    pages.data += bytes(height * pages.size)
    for level in range(height):
        below = first + level if level else leaf + 1
        pages.put(first + level, inner_page(pages.size, below, is_index, 0))
    top = inner_page(pages.size, first + height, is_index, 100 if root == 0 else 0)
    if root == 0:
        pages.data[100 : pages.size] = top[100:]
    else:
        pages.put(root, top)
    pages.data[28:32] = struct.pack(">I", first + height)


def inner_page(size, child, is_index, skip):
    page = bytearray(size)
    cell = struct.pack(">I", child) + (bytes((4, 4, 8, 8, 8)) if is_index else b"\x7f")
    place = size - len(cell)
    count = min((place - skip - 12) // 2 - 1, (size - 8) // 6 - 1)  # more, SQLite knows, no page can hold
    page[skip : skip + 12] = struct.pack(">BHHHBI", 2 if is_index else 5, 0, count, place, 0, child)
    page[skip + 12 : skip + 12 + 2 * count] = struct.pack(">H", place) * count
    page[place:] = cell
    return bytes(page)


def claim_length(pages):
    """Cells that say that they are gigabytes long."""
    number = pages.rng.choice(pages.trees((10, 13)))
    at, count = pages.cells(number)
    for index in range(count):
        cell = number * pages.size + struct.unpack(">H", pages.data[at + 2 * index : at + 2 * index + 2])[0]
        pages.data[cell : cell + 5] = pages.rng.choice(
            (b"\x87\xff\xff\xff\x7f", b"\x8f\xff\xff\xff\x7f", b"\x83\x80\x80\x80\x00")
        )


def bend_freelist(pages):
    pages.data[32:36] = struct.pack(">I", pages.rng.randrange(1, pages.count + 5))
    pages.data[36:40] = struct.pack(">I", pages.rng.choice((1, 5, 2**31)))


def bend_pointer_map(pages):
    for _ in range(20):
        pages.data[pages.size + pages.rng.randrange(pages.size)] = pages.rng.randrange(256)


def bend_texts(pages):
    """Words that are no UTF-8 any more, or hold NULs."""
    for _ in range(pages.rng.choice((1, 5, 50))):
        word = pages.rng.choice((b"chat", b"lamp", b"river", b"node", b"fork", b"running", b"thread", b"ask", b"paper"))
        at = pages.data.find(word, pages.rng.randrange(len(pages.data)))
        if at >= 0:
            pages.data[at : at + 2] = pages.rng.choice((b"\xff\xfe", b"\x00\x00", b"\xed\xa0", b"\xc0\x80", b"\x80x"))


def bend_serial_types(pages):
    """Columns of other types than the schema says: SQLite looks at them when it writes, never when it reads."""
    number = pages.rng.choice(pages.trees((13,)))
    at, count = pages.cells(number)
    for index in range(count):
        cell = number * pages.size + struct.unpack(">H", pages.data[at + 2 * index : at + 2 * index + 2])[0]
        pages.data[cell + pages.rng.randrange(3, 14)] = pages.rng.choice((0, 1, 6, 7, 8, 9, 10, 12, 13, 25))


DAMAGE = (
    flip_bits, flip_bits, flip_bits, flip_header, bend_header_field, flip_page_headers, swap_pages, repeat_page,
    random_page, zero_page, splice, truncate, bend_cell_pointers, one_cell_many_times, point_children, bomb,
    claim_length, bend_freelist, bend_pointer_map, bend_texts, bend_texts, bend_serial_types, bend_serial_types,
)  # fmt: skip
