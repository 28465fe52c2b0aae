"""The commands: each file parses its options, calls one function of the library and prints its result."""
