"""PocketKV: elastic, tiered, ephemeral storage for serverless analytics, over Redis's protocol.

The package has one layer under another; each may import what is below it, and never what is
above or beside it: the command line (`cli`), the planes (`controller`, `router`, `tiers`),
`observability`, what is stored (`engine`), the protocol (`resp`), and small pure modules.
"""

from __future__ import annotations

__version__ = "0.1.0"
