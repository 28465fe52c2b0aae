"""The parity ladder: where, by the torch module's name, a flavour stops computing what the checkpoint computes."""
