"""Running a method over a data set: order, augmentation, optimiser, state to resume from, evaluation."""
