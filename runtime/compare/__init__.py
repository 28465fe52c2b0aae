"""Is one candidate faster than another? Measured in turns on one machine, and answered with an interval."""
