"""What SGLang needs on a host without a GPU: platform, attention, collectives."""
