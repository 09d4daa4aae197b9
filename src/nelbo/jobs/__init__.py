"""What nelbo does for a user: train, fit, sample, score, describe. The command line and Python call the same."""
