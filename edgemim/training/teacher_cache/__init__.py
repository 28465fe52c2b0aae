"""What a frozen teacher sees in images that come again, stored once and read in every later epoch."""
