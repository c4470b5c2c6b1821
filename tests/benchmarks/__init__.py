"""What is timed; nothing here runs as part of the tests."""
