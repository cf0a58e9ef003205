from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pocketkv.amounts import (
    AMOUNT_MAX,
    AmountError,
    format_bytes,
    format_rate,
    parse_bytes,
    parse_rate,
)

amounts = st.integers(0, AMOUNT_MAX)
garbage = st.text() | st.binary() | st.from_regex(r"[0-9.]{1,30}[a-z/]{0,5}", fullmatch=True)


@given(amounts)
@example(AMOUNT_MAX)
def test_digits_are_bytes(amount: int) -> None:
    assert parse_bytes(str(amount)) == amount
    assert parse_bytes(f"{amount}B".encode()) == amount


@given(amounts)
@example(AMOUNT_MAX)
def test_a_formatted_amount_reads_back_at_most_one_percent_less(amount: int) -> None:
    again = parse_bytes(format_bytes(amount))
    assert again <= amount
    assert amount - again <= amount // 100
    assert format_rate(amount) == f"{format_bytes(amount)}/s"
    assert parse_rate(format_rate(amount)) == again


@given(st.integers(1, 1023), st.sampled_from(["b", "kb", "mb", "gb", "tb"]))
def test_whole_units_read_back_exactly(count: int, unit: str) -> None:
    text = f"{count}{unit}"
    assert format_bytes(parse_bytes(text)) == text


@given(st.integers(0, 10**12), st.integers(0, 999), st.sampled_from("kmgt"))
def test_decimals_are_exact(whole: int, thousandths: int, unit: str) -> None:
    multiplier = 1000 ** ("kmgt".index(unit) + 1)
    exact = (whole * 1000 + thousandths) * multiplier // 1000
    text = f"{whole}.{thousandths:03d}{unit}"
    if exact > AMOUNT_MAX:
        with pytest.raises(AmountError, match="is more than"):
            parse_bytes(text)
    else:
        assert parse_bytes(text) == exact


@given(garbage)
def test_garbage_is_an_amount_or_an_amount_error(text: str | bytes) -> None:
    for parse in (parse_bytes, parse_rate):
        try:
            assert 0 <= parse(text) <= AMOUNT_MAX
        except AmountError as error:
            message = str(error)
            assert message
            assert message.isascii()
            assert message.isprintable()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1k", 1000),
        ("1kb", 1024),
        ("64MB", 64 * 1024**2),
        ("1.5gb", 3 * 1024**3 // 2),
        ("2t", 2 * 10**12),
        ("1tb", 1024**4),
        ("0.3kb", 307),
        (b"10m", 10_000_000),
    ],
)
def test_bytes(text: str | bytes, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("600mbps", 75_000_000),
        ("1Gbps", 125_000_000),
        ("9kbps", 1125),
        ("100mb", 100 * 1024**2),
        ("100m/s", 100_000_000),
        (b"1.5GB/s", 3 * 1024**3 // 2),
    ],
)
def test_rates(text: str | bytes, expected: int) -> None:
    assert parse_rate(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not an amount"),
        ("-1", "is negative"),
        ("-1gb", "is negative"),
        ("nan", "is not an amount"),
        ("1e9", "is not an amount"),
        ("1.gb", "is not an amount"),
        (" 1gb", "is not an amount"),
        ("1_000", "is not an amount"),
        ("\u0661", "is not an amount"),
        ("1.5", "is not a whole number of bytes"),
        ("1xb", "has a unit that is none of b, k, m"),
        ("1mbps", "has a unit that is none of"),
        ("9223372036854775808", "is more than"),
        ("9999999tb", "is more than"),
        ("9" * 41, "at most 40 characters"),
        ("1\r\nOK", "is not an amount"),
    ],
)
def test_what_is_no_amount_of_bytes(text: str, words: str) -> None:
    with pytest.raises(AmountError, match=words):
        parse_bytes(text)


def test_the_error_quotes_the_text_of_a_rate_as_it_was_given() -> None:
    with pytest.raises(AmountError, match="'fast/s' is not an amount such as 75m or 600mbps"):
        parse_rate("fast/s")


def test_a_negative_number_has_no_form() -> None:
    with pytest.raises(AmountError, match="negative"):
        format_bytes(-1)
