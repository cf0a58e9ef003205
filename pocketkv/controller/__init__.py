"""The controller: it alone decides where jobs' slots are, and tells every server."""
