"""Examines a deployment: both stores and the settings, what is wrong and how to mend it."""
