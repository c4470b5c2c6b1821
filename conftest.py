"""What this repository's own tests need: sessions of their own, and the plugin also where it is not installed."""

pytest_plugins = ["pytester", "perf.plugin"]
