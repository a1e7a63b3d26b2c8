"""Memory that the processes of one replica share: the segment, each rank's record and switch journal."""
