"""The server of oomcast: it stores what agents measure, and shows it. Nothing here is imported by a training."""
