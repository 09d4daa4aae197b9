"""What a run is made of: its settings, read, checked, resolved and written."""
