"""Jobs of many steps that end with a result: fit, sweep, reproduce, demo, export."""
