"""`agent-broker agents|send|inbox|...`: what people and scripts ask of a running broker, on the client."""
