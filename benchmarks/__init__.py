"""PocketKV beside a real Redis: the same work, the same client, the same machine, in turns.

``python -m benchmarks`` measures and prints one table. A figure alone says little, since
machines differ and neighbours make noise; what counts is the ratio to redis-server, taken from
pairs of runs that follow each other at once.
"""
