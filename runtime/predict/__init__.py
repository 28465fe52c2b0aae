"""A bundle in a program: the candidate that ships, opened, from images of any size to outputs."""
