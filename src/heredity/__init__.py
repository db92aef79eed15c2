"""heredity: make a model from another model, and measure what it inherited."""

__version__ = "0.1.0"
