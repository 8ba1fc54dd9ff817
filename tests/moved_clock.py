"""A clock that only the tests move."""


class Hands:
    """A clock that stands still until it is moved."""

    def __init__(self, time=100.0):
        self.time = time

    def __call__(self):
        return self.time

    def wait(self, seconds):
        self.time += seconds
