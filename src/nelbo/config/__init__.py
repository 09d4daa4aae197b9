"""The settings of a run: read, checked, resolved and written."""
