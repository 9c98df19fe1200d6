"""Downloads a file and verifies its checksum; the final name never holds an incomplete or unverified file."""

import hashlib
import http.client
import os
import urllib.request
from pathlib import Path

from ..errors import DataError
from ..regular_files import opened

_CHUNK = 1 << 20


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


def download(url: str, target: Path, md5: str, timeout: float = 30.0) -> None:
    """Download `url` to `target` through `target.part`; DataError on any failure, with no file left at `target`."""
    if not url.startswith(("https://", "http://127.0.0.1")):
        raise DataError(f"{url}: only https downloads are allowed")
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        request = urllib.request.Request(url, headers={"User-Agent": "mdistiller_dfpt"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=timeout) as response, open(part, "wb") as f:  # noqa: S310
            while chunk := response.read(_CHUNK):
                f.write(chunk)
        found = md5_of(part)
        if found != md5:
            raise DataError(f"{url}: the file has MD5 {found}, expected {md5}; try again later")
        os.replace(part, target)
    except (OSError, http.client.HTTPException) as e:
        raise DataError(f"{url}: download failed ({e}); download it manually to {target}") from None
    finally:
        part.unlink(missing_ok=True)
