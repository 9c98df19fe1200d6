"""Downloads a file and verifies its checksum; the final name never holds an incomplete or unverified file."""

import hashlib
import http.client
import os
import secrets
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import DataError
from ..regular_files import opened

_CHUNK = 1 << 20
SLOWEST = 1000  # bytes a second


def md5_of(source: Path | bytes) -> str:
    """MD5 in hex; it identifies the official file, but does not protect against forgery."""
    digest = hashlib.md5(usedforsecurity=False)
    if isinstance(source, bytes):
        digest.update(source)
        return digest.hexdigest()
    with opened(source) as f:
        while chunk := f.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(url: str, target: Path, md5: str, most: int, timeout: float = 30.0, patience: float = 120.0) -> None:
    """Download `url`, of at most so many bytes, to `target`; DataError on any failure, with no file left there.

    It fails as well if after `patience` seconds fewer than SLOWEST bytes have come in each.
    """
    _check_safe(url)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    began, size = time.monotonic(), 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        request = urllib.request.Request(url, headers={"User-Agent": "mdistiller_dfpt"})  # noqa: S310
        # A new file, under a name that nobody can foresee: a link in its place would lead elsewhere
        with urllib.request.urlopen(request, timeout=timeout) as response, open(part, "xb") as f:  # noqa: S310
            _check_safe(response.geturl())
            while chunk := response.read1(_CHUNK):
                f.write(chunk)
                size += len(chunk)
                if size > most:
                    raise DataError(f"{url}: more than {most:,} bytes come, so it is another file; try again later")
                passed = time.monotonic() - began
                if passed > patience and size < SLOWEST * passed:
                    raise DataError(f"{url}: {size:,} bytes came in {passed:.0f} s; download it manually to {target}")
        found = md5_of(part)
        if found != md5:
            raise DataError(f"{url}: the file has MD5 {found}, expected {md5}; try again later")
        os.replace(part, target)
    except (OSError, http.client.HTTPException) as e:
        raise DataError(f"{url}: download failed ({e}); download it manually to {target}") from None
    finally:
        part.unlink(missing_ok=True)


def _check_safe(url: str) -> None:
    """DataError unless a URL, also one to which a server redirects, is of https or of this machine."""
    parts = urlsplit(url)
    if parts.scheme != "https" and (parts.scheme, parts.hostname) != ("http", "127.0.0.1"):
        raise DataError(f"{url}: only https downloads are allowed")
