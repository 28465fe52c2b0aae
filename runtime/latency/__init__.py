"""Latency of sessions, measured side by side, and what the samples say."""
