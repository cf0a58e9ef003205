"""INFO at a router: its own figures, with those of the job's keys summed over the job's servers.

A server that does not answer is left out, and counted, so that a client that begins with INFO can
go on with the keys of the other servers.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from pocketkv.engine.errors import CommandError
from pocketkv.engine.info import human_bytes
from pocketkv.resp.encoder import encode_reply
from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.replies import Encoded, ErrorReply, Verbatim
from pocketkv.router.split import AllGather
from pocketkv.router.wire import bulk_body

# Sections by name, each with its fields in order.
Sections: TypeAlias = dict[str, dict[str, str]]

_QUESTION: Final = [b"INFO", b"memory", b"persistence", b"stats", b"keyspace", b"pocketkv"]
_KEYSPACE: Final = "Keyspace"
# The fields that are about keys and values; all others of these sections are the router's own.
_SUMMED: Final = {
    "Memory": (
        "used_memory",
        "used_memory_rss",
        "used_memory_peak",
        "used_memory_dataset",
        "maxmemory",
    ),
    "Persistence": ("rdb_changes_since_last_save",),
    "Stats": ("expired_keys", "evicted_keys", "keyspace_hits", "keyspace_misses"),
    "Pocketkv": (
        "pocketkv_job_used_bytes",
        "pocketkv_job_quota_bytes",
        "pocketkv_job_refused_writes",
        "pocketkv_job_slots",
    ),
}

# Of what every server has a copy.
_LARGEST: Final = ("number_of_cached_scripts",)


class InfoGather(AllGather):
    """INFO: the router's text, and what the servers say of the job's keys."""

    __slots__ = ("own",)

    own: Sections

    def asked(self) -> list[bytes]:
        """The sections that are summed."""
        return _QUESTION

    def start(self) -> None:
        """Ask the servers, if the client wants to know what they know."""
        try:
            text = self.command.handler(self.client.session, self.request)
        except CommandError as error:
            self.finish(ErrorReply(error.text), 0)
            return
        assert isinstance(text, Verbatim)
        self.own = parse_sections(text.text)
        if self.own.keys().isdisjoint({_KEYSPACE, *_SUMMED}) or not self._has_servers():
            self._tell(self.own)
            return
        super().start()

    def _has_servers(self) -> bool:
        try:
            return bool(self.client.view.all_owners())
        except CommandError:
            return False

    def gathered(self) -> None:
        """Sum what was answered."""
        answers = []
        silent = 0
        for part in self.parts:
            try:
                assert isinstance(part.reply, Encoded | ErrorReply)
                if isinstance(part.reply, ErrorReply):
                    silent += 1
                else:
                    answers.append(parse_sections(bulk_body(part.reply.raw)))
            except ProtocolError:
                silent += 1
        self._tell(merge_sections(self.own, answers, silent))

    def _tell(self, sections: Sections) -> None:
        # Encoded now: the client's protocol version may change before the reply's turn.
        text = Verbatim(format_sections(sections))
        self.finish(Encoded(encode_reply(text, self.binding.key[2])), 0)


def parse_sections(text: bytes) -> Sections:
    """The sections of an INFO text."""
    sections: Sections = {}
    fields: dict[str, str] = {}
    for line in text.decode("utf-8", "replace").splitlines():
        if line.startswith("# "):
            fields = sections[line[2:]] = {}
        elif ":" in line:
            name, _, value = line.partition(":")
            fields[name] = value
    return sections


def format_sections(sections: Sections) -> bytes:
    """An INFO text, as Redis writes it: CRLF, and an empty line between sections."""
    blocks = [
        "".join([f"# {section}\r\n", *(f"{name}:{value}\r\n" for name, value in fields.items())])
        for section, fields in sections.items()
    ]
    return "\r\n".join(blocks).encode()


def merge_sections(own: Sections, answers: list[Sections], silent: int) -> Sections:
    """The router's sections with the sums of the servers' in them.

    Args:
        own: The router's.
        answers: Each server's.
        silent: How many servers have not answered.
    """
    merged = {section: dict(fields) for section, fields in own.items()}
    if "Memory" in merged:
        _take_largest(merged["Memory"], [a.get("Memory", {}) for a in answers], _LARGEST)
    for section, names in _SUMMED.items():
        if section in merged:
            _sum_fields(merged[section], [a.get(section, {}) for a in answers], names)
    if "Pocketkv" in merged:
        merged["Pocketkv"]["pocketkv_silent_servers"] = str(silent)
    if _KEYSPACE in merged:
        merged[_KEYSPACE] = _sum_databases([a.get(_KEYSPACE, {}) for a in answers])
    return merged


def _sum_fields(
    fields: dict[str, str], answers: list[dict[str, str]], names: tuple[str, ...]
) -> None:
    for name in names:
        numbers = [answer[name] for answer in answers if answer.get(name, "").isdigit()]
        if not numbers:
            continue
        total = sum(map(int, numbers))
        fields[name] = str(total)
        if f"{name}_human" in fields:
            fields[f"{name}_human"] = human_bytes(total)


def _take_largest(
    fields: dict[str, str], answers: list[dict[str, str]], names: tuple[str, ...]
) -> None:
    for name in names:
        numbers = [int(a[name]) for a in answers if a.get(name, "").isdigit()]
        if numbers:
            fields[name] = str(max(numbers))


def _sum_databases(answers: list[dict[str, str]]) -> dict[str, str]:
    """``dbN:keys=..,expires=..,avg_ttl=..``: summed, the time to live averaged over the keys."""
    totals: dict[str, dict[str, int]] = {}
    for answer in answers:
        for database, text in answer.items():
            pairs = dict(pair.partition("=")[::2] for pair in text.split(","))
            numbers = {name: int(value) for name, value in pairs.items() if value.isdigit()}
            total = totals.setdefault(database, {})
            if "avg_ttl" in numbers:
                numbers["avg_ttl"] *= numbers.get("expires", 0)
            for name, number in numbers.items():
                total[name] = total.get(name, 0) + number
    for total in totals.values():
        if "avg_ttl" in total:
            total["avg_ttl"] //= max(total.get("expires", 0), 1)
    ordered = sorted(totals, key=lambda name: (len(name), name))
    return {
        name: ",".join(f"{field}={number}" for field, number in totals[name].items())
        for name in ordered
    }
