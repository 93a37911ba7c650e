"""One training by several processes, its ranks: each has a copy of the network and a part of every batch.

Rank 0 leads: it alone has the run directory, the storage and the journal, and says what is done next; the others follow. Numbers travel by
TensorFlow's collectives or by HCCL, words between the processes by a connection of each rank to rank 0.
"""
