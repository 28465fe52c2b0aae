"""`python -m edgemim`: the same as the `edgemim` command."""

from edgemim.cli import main

if __name__ == "__main__":
    main()
