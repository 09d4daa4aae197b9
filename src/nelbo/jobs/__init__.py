"""The tasks of nelbo: train, fit, sample, score, describe. The command line and Python call the same functions."""
