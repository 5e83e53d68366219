"""Untrusted files in a child process, with limits and rules."""
