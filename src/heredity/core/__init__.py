"""The corridor: what every system uses and no paper knows of."""
