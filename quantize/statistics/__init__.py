"""What calibration learns of activations: histograms and largest values, independent of batch, order and workers."""
