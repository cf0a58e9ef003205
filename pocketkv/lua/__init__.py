"""Lua for scripts: interpreters that reach nothing but what they are given."""
