"""Errors that a user can cause or mend, each with the exit code that the command line returns."""


class ChapterflowError(Exception):
    """A failure told in one line: what was expected, what was received, what to do.

    Attributes:
        exit_code: Exit status of the command line (1 where nothing more precise is known).
    """

    exit_code = 1


class ConfigError(ChapterflowError):
    """`params.yaml`, an option or a name is wrong; nothing was started."""

    exit_code = 2


class DataError(ChapterflowError):
    """Input data are damaged or not what their card or their source says."""

    exit_code = 2


class FetchError(ChapterflowError):
    """A download did not succeed; running the command again resumes it."""


class ValidationFailed(ChapterflowError):
    """The data break an expectation; no model was trained on them."""

    exit_code = 3


class ImplausibleMetric(ChapterflowError):
    """A metric is not finite, lies outside its range, or its counts do not add up."""


class StoreError(ChapterflowError):
    """The tracking store cannot be used as it is."""


class StoreUnavailable(StoreError):
    """The tracking store does not answer now (locked, or out of reach); a retry may help."""
