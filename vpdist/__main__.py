"""Entry point.

torchrun --standalone --nproc-per-node=2 -m vpdist predict reads.fa.gz -o RUN ...
accelerate launch --multi_gpu --num_processes 2 -m vpdist predict reads.fa.gz -o RUN ...
vpdist predict reads.fa.gz -o RUN ...
"""

from vpdist.cli import main

if __name__ == "__main__":
    main()
