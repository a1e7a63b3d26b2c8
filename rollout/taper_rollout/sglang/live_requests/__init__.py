"""What a live request keeps through a switch: its handoff, its sampling state, its readmission."""
