from __future__ import annotations

from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.tokens import (
    SECRET_BYTES,
    job_token,
    member_proof,
    verify_job_token,
    verify_member_proof,
    verify_password,
)

SECRET = bytes(range(SECRET_BYTES))
OTHER_SECRET = SECRET[::-1]

secrets = st.binary(min_size=1, max_size=40)
names = st.text(max_size=40)
nonces = st.binary(max_size=20)


@given(secrets, names)
def test_a_token_verifies_for_its_job_alone(secret: bytes, job_id: str) -> None:
    token = job_token(secret, job_id)
    assert verify_job_token(secret, job_id, token)
    assert verify_job_token(secret, job_id.encode(), token.encode())
    assert not verify_job_token(secret, job_id + "x", token)
    assert not verify_job_token(secret + b"x", job_id, token)


@given(secrets, names)
def test_a_token_stands_in_a_url_as_it_is(secret: bytes, job_id: str) -> None:
    token = job_token(secret, job_id)
    assert quote(token, safe="") == token
    assert urlsplit(f"redis://job-1:{token}@router:6379").password == token


@given(st.binary() | st.text(st.characters()))
def test_no_other_text_is_a_token(text: str | bytes) -> None:
    assert not verify_job_token(SECRET, "job-1", text)
    assert not verify_member_proof(SECRET, "job-1", b"", text)


@given(names, nonces)
def test_a_proof_is_for_one_member_and_one_nonce(member_id: str, nonce: bytes) -> None:
    proof = member_proof(SECRET, member_id, nonce)
    assert verify_member_proof(SECRET, member_id, nonce, proof)
    assert verify_member_proof(SECRET, member_id.encode(), nonce, proof.encode())
    assert not verify_member_proof(SECRET, member_id, nonce + b"x", proof)
    assert not verify_member_proof(SECRET, member_id + "x", nonce, proof)
    assert not verify_member_proof(OTHER_SECRET, member_id, nonce, proof)
    assert not verify_job_token(SECRET, member_id, proof)
    assert not verify_job_token(SECRET, member_id + nonce.decode("latin-1"), proof)


@given(st.text(min_size=1), st.text(min_size=1))
def test_where_the_id_ends_and_the_nonce_begins_is_signed(left: str, right: str) -> None:
    proof = member_proof(SECRET, left + right, b"")
    assert not verify_member_proof(SECRET, left, right.encode(), proof)


@given(st.text(), st.text())
def test_a_password_is_right_if_it_is_the_same(expected: str, given_one: str) -> None:
    assert verify_password(expected, given_one) == (expected == given_one and expected != "")
    assert verify_password(expected, expected.encode()) == (expected != "")


def test_what_a_client_sent_undecodable_is_wrong_and_no_error() -> None:
    assert not verify_password("right", "\udcff")
    assert not verify_password("right", b"\xff")
    assert not verify_job_token(SECRET, "\udcff", "\udcff")
    assert not verify_job_token(SECRET, b"\xff", b"\xff")


def test_an_empty_secret_signs_nothing() -> None:
    with pytest.raises(ValueError, match="secret is empty"):
        job_token(b"", "job-1")
    with pytest.raises(ValueError, match="secret is empty"):
        verify_job_token(b"", "job-1", "")


def test_tokens_stay_what_they_are() -> None:
    # A change would lock every running job out of a cluster that is being upgraded.
    assert job_token(SECRET, "sort-01") == "xtRiUVXrV6zp4FgB9WgbGRbJFHDXZ7t_P-mmnWXl8PY"
    assert (
        member_proof(SECRET, "storage-1", b"nonce") == "caaGric_buri0mTrjr-hjRat9J57Vr3DPdzpiWPrazQ"
    )
