"""Measures how fast a replica's layouts are, and stores the profile."""
