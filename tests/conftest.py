"""What holds for all tests: no property may depend on how fast the machine is just now."""

from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
