"""What crosses a boundary. Imports nothing of ours."""
