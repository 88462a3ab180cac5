"""All tests, a package: what they share is imported as `from tests.tiny import ...`."""
