"""Export, retention, deletion, and what the data take."""
