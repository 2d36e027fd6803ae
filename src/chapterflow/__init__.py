"""The models of a textbook chapter on convolution, each run through one production loop."""

__version__ = "0.1.0"
