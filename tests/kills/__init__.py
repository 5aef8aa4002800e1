"""Kills at random moments, with readers who check every byte: some in each run of the tests, more by hand."""
