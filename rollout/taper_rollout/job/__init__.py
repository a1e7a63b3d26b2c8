"""What a job asks for, and whether this machine can run it: no SGLang, no VeRL."""
