"""What every server process shares: its life from start to stop, and its link to the controller."""
