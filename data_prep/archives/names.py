"""Names inside archives: which are taken, and which are refused.

    member_name(b"./n01440764/a.JPEG", where="train.tar, byte 512")     # "n01440764/a.JPEG"
    member_name(b"../../etc/passwd", where="train.tar, byte 512")       # UserError

Nothing is ever extracted under these names, but they become keys and paths in reports, and a hostile one must not
get that far.
"""

from __future__ import annotations

from pipeline.shards.errors import UserError


def member_name(raw: bytes, *, where: str) -> str:
    """Return a member's name, without leading `./`; "" for the archive's own folder.

    Args:
        raw: the name as stored.
        where: the file and the place in it, for the error.

    Raises:
        UserError: it is not UTF-8, is absolute, has a part "..", a backslash or a NUL.
    """
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise UserError(
            f"{where}: the name {raw[:200]!r} is not UTF-8; make the archive anew with UTF-8 names"
        ) from None
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    if name == ".":
        name = ""
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise UserError(f"{where}: the name {name[:200]!r} leads out of the archive; refused")
    return name
