"""`python -m groundup`: the command line, as torchrun starts it (`torchrun ... -m groundup train ...`)."""

from groundup.cli.main import main

if __name__ == "__main__":
    main()
