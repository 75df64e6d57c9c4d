"""``python -m datfs``."""

from datfs.cli import main

if __name__ == "__main__":
    main()
