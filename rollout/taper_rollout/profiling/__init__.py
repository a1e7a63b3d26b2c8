"""Measure how fast a replica's layouts are, and keep the profile."""
