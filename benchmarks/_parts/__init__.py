"""What the benchmarks of the methods are made of; only scripts in the folder above import it."""
