"""The processes: router, delivery, recorder, keeper, and the runtime they share."""
