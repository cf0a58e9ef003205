"""A directory of a file system as a medium: journals of small values, and files of large ones."""
