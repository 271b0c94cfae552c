"""What holds for all tests."""

from hypothesis import settings

settings.register_profile("syncline", deadline=None)  # a busy machine is no error
settings.load_profile("syncline")
