"""The kinds of stage, one file each; rounds.py holds the loops of those that go in rounds."""
