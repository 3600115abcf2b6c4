"""What obstore's exceptions mean, in one line.

    fault = read_fault(error, scheme="s3")
    fault.kind, fault.text          # FaultKind.no_bucket, "no such bucket; create it, or correct the URL"

obstore tells few kinds apart by type; the rest stands in the text, whose first line is for people and whose
"Debug source" names the cause.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from obstore.exceptions import NotSupportedError, PermissionDeniedError, UnauthenticatedError

_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), or AWS_SKIP_SIGNATURE=true if public",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for a public bucket",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
# Where clouds give credentials to their own machines; obstore asks there when the environment has none.
_CREDENTIAL_SERVERS = ("169.254.", "metadata.google.internal", "/latest/api/token")
_NO_BUCKET = ("NoSuchBucket", "The specified bucket does not exist", "ContainerNotFound")
_BROKEN_BODY = "request or response body error"
_OUTAGE = re.compile(r"kind: (Connect|Request|Timeout|Interrupted)|status code: (5\d\d|408|429)")
_MAX_TEXT = 300


class WrongLengthError(Exception):
    """The server sent another number of bytes than was asked for."""


class PastEndError(Exception):
    """The file ends before the last byte that was asked for."""


class FaultKind(Enum):
    """What went wrong, as far as the caller acts on it."""

    missing = auto()
    no_bucket = auto()
    not_allowed = auto()
    past_end = auto()
    broken_body = auto()
    outage = auto()
    other = auto()


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind, and the rest of the error's line."""

    kind: FaultKind
    text: str


def read_fault(error: Exception, *, scheme: str) -> Fault:
    """Return what an exception of obstore's, or one of the two above, means."""
    text = str(error)
    first_line = " ".join(text.partition("Debug source")[0].split())
    if isinstance(error, WrongLengthError):
        return Fault(FaultKind.broken_body, text)
    if isinstance(error, PastEndError):
        return Fault(FaultKind.past_end, text)
    if _BROKEN_BODY in text:
        return Fault(FaultKind.broken_body, "the connection broke off before all bytes were there")
    if any(sign in text for sign in _NO_BUCKET):
        return Fault(FaultKind.no_bucket, "no such bucket; create it, or correct the URL")
    if isinstance(error, FileNotFoundError):
        return Fault(FaultKind.missing, "missing")
    if scheme in _CREDENTIALS and any(server in text for server in _CREDENTIAL_SERVERS):
        return Fault(FaultKind.not_allowed, f"no credentials in the environment; set {_CREDENTIALS[scheme]}")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        mend = f"; check {_CREDENTIALS[scheme]}" if scheme in _CREDENTIALS else ""
        return Fault(FaultKind.not_allowed, f"not permitted{mend}")
    if "416 Range Not Satisfiable" in text or "Requested range not satisfiable" in text:
        return Fault(FaultKind.past_end, "the file ends before that")
    if isinstance(error, NotSupportedError) or "Range request not supported" in text:
        return Fault(FaultKind.other, "the server does not give parts of files (HTTP ranges), which reading needs")
    if "kind: Connect" in text or "kind: Timeout" in text:
        causes = re.findall(r'(?:message|error): "([^"]+)"', text)
        return Fault(FaultKind.outage, f"no connection ({causes[-1] if causes else 'no answer in time'})")
    if _OUTAGE.search(text):
        return Fault(FaultKind.outage, first_line[:_MAX_TEXT])
    return Fault(FaultKind.other, first_line[:_MAX_TEXT])
