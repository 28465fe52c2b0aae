"""What the machine did while it was measured: clocks, heat, and who else took part of its processors."""
