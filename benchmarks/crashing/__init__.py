"""What a run loses when processes, machines and networks fail under it."""
