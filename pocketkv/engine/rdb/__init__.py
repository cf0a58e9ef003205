"""Redis's form of a value outside of a server: what DUMP gives and RESTORE takes.

It is the form of one value in a file of Redis 7.0 (RDB version 10), followed by that version and a
checksum. Everything here knows only bytes and plain Python values (`content`); what they become in
a database, `pocketkv.engine.dumping` decides. What is read may come from anybody: it is
checked in full, and no more is reserved for it than it has bytes.
"""
