"""Where storage servers run: one module for each kind of cluster, behind one interface."""
