"""Names of metrics and log events, and the means to export them."""
