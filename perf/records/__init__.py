"""Records: what is kept and sent, how it is written, read and versioned."""
