"""What a page says of itself in its Content-Security-Policy."""

from __future__ import annotations

import base64
import hashlib

__all__ = ["hash_source"]


def hash_source(text: str) -> str:
    """
    A style or a script that is in the page itself, and none but this one: what a C{hash-source} is
    (https://www.w3.org/TR/CSP3/#grammardef-hash-source).
    """
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
