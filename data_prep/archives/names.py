"""Names inside archives: which are taken, and which are refused.

    member_name(b"./n01440764/a.JPEG")      # "n01440764/a.JPEG"
    member_name(b"../../etc/passwd")        # RefusedNameError

Nothing is ever extracted under these names, but they become keys and paths in reports, and a hostile one must not
get that far.
"""

from __future__ import annotations


class RefusedNameError(ValueError):
    """The message says which name, and why."""


def member_name(raw: bytes) -> str:
    """Return a member's name, without leading `./`; "" for the archive's own folder.

    Raises:
        RefusedNameError: it is not UTF-8, is absolute, or has a part "..", a backslash or a NUL.
    """
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise RefusedNameError(f"the name {raw[:200]!r} is not UTF-8; make the archive anew") from None
    if name[:1] not in "./" and ".." not in name and "\\" not in name and "\0" not in name:
        return name  # nearly all
    while name.startswith("./"):
        name = name[2:]
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise RefusedNameError(f"the name {raw[:200]!r} leads out of the archive; refused")
    return "" if name == "." else name
