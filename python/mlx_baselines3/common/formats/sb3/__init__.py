"""SB3's files, read without running them, and written."""
