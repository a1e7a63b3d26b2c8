"""Predict how many tokens the live requests still generate."""
