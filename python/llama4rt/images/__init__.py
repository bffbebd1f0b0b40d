"""Pictures: from whatever a caller has (sources.py, fetch.py) to tiles (tiling.py, processing.py), and their tokens
(image_tokens.py).

Importing this package imports neither Pillow nor numpy.
"""
