"""vpdist tells viral sequences from everything else in sequencing data, on as many GPUs as there are."""

__version__ = "0.1.0"
