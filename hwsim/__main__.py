"""`python -m hwsim`."""

from hwsim.command_line import app

app()
