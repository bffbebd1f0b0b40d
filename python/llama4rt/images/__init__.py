"""Pictures: from whatever a caller has (sources.py, fetch.py) to tiles (plan.py, processing.py) and tokens (prompt.py).

Importing this package imports neither Pillow nor numpy.
"""
