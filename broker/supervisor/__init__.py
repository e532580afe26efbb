"""`agent-broker up`: the whole broker on one machine, as processes under one supervisor."""
