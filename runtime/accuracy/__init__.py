"""How right a candidate is: against the golden outputs, against labels, against fp32 on the same images."""
