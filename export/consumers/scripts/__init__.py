"""Scripts that run in a consumer's own environment, where nothing of this package is installed."""
