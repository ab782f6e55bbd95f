"""What the providers offer, in plain typed Python, usable without Prefect.

`stability` and `fal` hold the functions; the rest of the package is what they share.
"""
