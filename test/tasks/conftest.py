"""Nothing here needs the whole network."""

from test.shallow import shallow  # noqa: F401 (a fixture)
