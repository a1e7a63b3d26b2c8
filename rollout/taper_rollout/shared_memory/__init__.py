"""Memory that the processes of one replica share: the segment and each rank's record."""
