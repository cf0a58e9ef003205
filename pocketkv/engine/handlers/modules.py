"""MODULE: there are none, which clients ask for when they connect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketkv.engine.commands import command, not_callable
from pocketkv.engine.help_text import help_lines
from pocketkv.resp.replies import Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

command(
    "MODULE",
    arity=-2,
    flags="",
    group="server",
    since="4.0.0",
    complexity="Depends on subcommand.",
    summary="A container for commands about modules.",
)(not_callable)


@command(
    "MODULE|LIST",
    arity=2,
    flags="admin noscript",
    group="server",
    since="4.0.0",
    complexity="O(1)",
    summary="The modules that are loaded: none.",
    tips="nondeterministic_output_order",
)
def module_list(session: Session, request: list[bytes]) -> Reply:
    """An empty array."""
    return []


@command(
    "MODULE|HELP",
    arity=2,
    flags="loading stale",
    group="server",
    since="5.0.0",
    complexity="O(1)",
    summary="What subcommands there are.",
)
def module_help(session: Session, request: list[bytes]) -> Reply:
    """Two lines for each."""
    return help_lines(b"module")
