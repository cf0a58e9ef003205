"""What an operator sees of a process: its log, its metrics, its health, its use of the machine."""
