"""The ways a message may come to an `Agent`: long-poll, WebSocket, webhook. One desk behind them all."""
