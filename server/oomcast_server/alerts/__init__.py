"""What someone should be woken for."""
