"""Whether the numbers that vpdist says of its calls hold, on genomes that no parameter was fitted on."""
