"""The search for the fastest INT8 mix that is still right, by measuring on this machine."""
