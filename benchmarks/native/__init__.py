"""The rows of native code, tried on the repositories themselves."""
