"""Changes to a built filter that only tests want."""

_EXPORTS, _IMPORTS, _CODE = 7, 2, 10
_TRAP = bytes([3, 0, 0x00, 0x0B])
"""A function body: its length, no locals, `unreachable`, `end`."""


def trapping(module: bytes, export: str) -> bytes:
    """The module with that exported function's body replaced by a trap."""
    sections = list(_sections(module))
    contents = {number: content for number, content in sections}
    at = _exported(contents[_EXPORTS], export) - _imported_functions(contents[_IMPORTS])
    result = module[:8]
    for number, content in sections:
        if number == _CODE:
            content = _replaced(content, at)
        result += bytes([number]) + _uint(len(content)) + content
    return result


def _sections(module: bytes):
    at = 8
    while at < len(module):
        number = module[at]
        size, at = _read(module, at + 1)
        yield number, module[at : at + size]
        at += size


def _read(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _uint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _name(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = _read(data, at)
    return data[at : at + size], at + size


def _exported(section: bytes, wanted: str) -> int:
    count, at = _read(section, 0)
    for _ in range(count):
        name, at = _name(section, at)
        kind = section[at]
        index, at = _read(section, at + 1)
        if kind == 0 and name == wanted.encode():
            return index
    raise KeyError(wanted)


def _imported_functions(section: bytes) -> int:
    count, at = _read(section, 0)
    for _ in range(count):
        _, at = _name(section, at)
        _, at = _name(section, at)
        if section[at] != 0:
            raise ValueError("an import that is no function")
        _, at = _read(section, at + 1)
    return count


def _replaced(section: bytes, wanted: int) -> bytes:
    count, at = _read(section, 0)
    out = _uint(count)
    for number in range(count):
        size, start = _read(section, at)
        out += _TRAP if number == wanted else section[at : start + size]
        at = start + size
    return out
