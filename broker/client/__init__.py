"""The SDK agents import."""
