"""Storage servers as pods: what the controller asks of Kubernetes, and remembers there.

The API of the cluster is the durable state and the lock of the leader; while it is away, nothing
is scaled and nobody registers, and data goes on. One module knows the package `kubernetes`, which
is heavy: only a controller with this backend imports it.
"""
