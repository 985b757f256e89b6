"""Files that are whole or absent: atomic writes, HDF5 with digests, the run folder, its lock and log files.

Enters: bytes, arrays, JSON. Leaves: files under their final names, or a StorageError that names the path.
"""
