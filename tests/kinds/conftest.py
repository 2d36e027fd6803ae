"""The digits of the tests of validation, for the tests of what each kind expects."""

from tests.validation.conftest import bounds, corrupt, digits, failed, passed, without_data_docs

__all__ = ["bounds", "corrupt", "digits", "failed", "passed", "without_data_docs"]
