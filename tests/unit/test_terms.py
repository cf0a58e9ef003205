"""A job's terms: what they are, and what is none."""

from __future__ import annotations

import json

import pytest

from pocketkv.limits import TERMS_BYTES_MAX
from pocketkv.terms import Terms, TermsError


def test_terms_are_changed_one_by_one() -> None:
    terms = Terms("job").with_user("alice", "on ~*").with_user("bob", "off")
    terms = terms.with_user("alice", "off").with_settings({"a": "1"}).with_settings({"b": "2"})
    assert terms.users == {"alice": "off", "bob": "off"}
    assert terms.settings == {"a": "1", "b": "2"}
    assert terms.without_users(["alice", "nobody"]).users == {"bob": "off"}


def test_what_is_no_text_of_unicode_survives() -> None:
    odd = b"~\xff".decode("utf-8", "surrogateescape")
    terms = Terms("job", 3).with_user(odd, odd)
    assert Terms.from_json(json.loads(json.dumps(terms.as_json()))) == terms


def test_they_have_an_end() -> None:
    with pytest.raises(TermsError, match="at most"):
        Terms("job").with_user("alice", "x" * TERMS_BYTES_MAX)
    with pytest.raises(TermsError, match="at most"):
        Terms("job", users={str(number): "" for number in range(TERMS_BYTES_MAX // 32)})


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"job_id": "", "epoch": 1, "users": {}, "settings": {}},
        {"job_id": "job", "epoch": -1, "users": {}, "settings": {}},
        {"job_id": "job", "epoch": "1", "users": {}, "settings": {}},
        {"job_id": "job", "epoch": 1, "users": {"alice": 3}, "settings": {}},
        {"job_id": "job", "epoch": 1, "users": ["alice"], "settings": {}},
        {"job_id": 3, "epoch": 1, "users": {}, "settings": {}},
    ],
)
def test_what_is_none(document: dict[str, object]) -> None:
    with pytest.raises(TermsError):
        Terms.from_json(document)
