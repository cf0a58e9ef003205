"""What can be wrong with bytes from the other side.

The classes stand in a module of their own that is never compiled, so that compiled and plain
callers mean the same class.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """The peer broke the protocol; the connection cannot be understood any further.

    The text is Redis's, without its ``ERR `` prefix, fit to be sent to the client.
    """


class PeerError(Exception):
    """One of our own servers could not be reached, did not answer in time, or answered nonsense."""
