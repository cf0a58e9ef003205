"""Credentials that every server can check on its own, derived from the cluster's secret.

A job's token is an HMAC of its id, so a storage server verifies it without asking anyone and
nobody keeps a list of tokens. Members (controller, routers, storage servers) prove themselves
to each other with an HMAC of a nonce that the other side chose, so a recorded proof is of no
use later. The two are told apart by a purpose that is part of what is signed: a job's token
never passes as a member's proof, whatever the job is called.

All comparisons take the same time whatever is wrong. Not promised: revoking one token (ids are
never used again, and a deregistered job has no keys), and secrecy on the wire (that is TLS's).
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode

SECRET_BYTES = 32
"""Size of a cluster's secret: as much as the output of the HMAC, more adds nothing."""

MEMBER_NONCE_BYTES = 16
"""Size of a nonce for `member_proof`: large enough that none comes twice."""


def job_token(secret: bytes, job_id: str) -> str:
    """Return the token of a job: 43 characters that stand in a ``redis://`` URL unescaped.

    Raises:
        ValueError: the secret is empty, so anybody could compute tokens.
    """
    return _signature(secret, b"job", job_id)


def verify_job_token(secret: bytes, job_id: str | bytes, token: str | bytes) -> bool:
    """Return whether `token` is that of `job_id`; both may be anything that a client sent."""
    return _same(_signature(secret, b"job", job_id), token)


def member_proof(secret: bytes, member_id: str, nonce: bytes) -> str:
    """Return the proof that the holder of `secret` calls itself `member_id`.

    `nonce` is the verifier's: `MEMBER_NONCE_BYTES` fresh random bytes for each connection.
    """
    return _signature(secret, b"member", member_id, nonce)


def verify_member_proof(
    secret: bytes, member_id: str | bytes, nonce: bytes, proof: str | bytes
) -> bool:
    """Return whether `proof` was made for this member and this nonce."""
    return _same(_signature(secret, b"member", member_id, nonce), proof)


def verify_password(expected: str | bytes, given: str | bytes) -> bool:
    """Return whether `given` is the password `expected`; an empty `expected` admits nobody."""
    # Digests have one length, so the time taken does not tell that of the password.
    same = hmac.compare_digest(
        hashlib.sha256(_encoded(expected)).digest(), hashlib.sha256(_encoded(given)).digest()
    )
    return same and bool(expected)


def _encoded(text: str | bytes) -> bytes:
    # Clients' bytes may have been decoded with surrogates, which plain UTF-8 refuses.
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def _signature(secret: bytes, purpose: bytes, *parts: str | bytes) -> str:
    if not secret:
        raise ValueError("the cluster's secret is empty")
    # A length before each part: no two lists of parts give the same message.
    message = b"".join(
        len(part).to_bytes(4, "big") + part for part in (purpose, *map(_encoded, parts))
    )
    digest = hmac.digest(secret, message, "sha256")
    return urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def _same(expected: str, given: str | bytes) -> bool:
    return hmac.compare_digest(expected.encode("ascii"), _encoded(given))
