"""Responses and conversations that a server keeps: texts and ids in SQLite; their keys and values are the prefix
cache's business, and the block store's where there is one.
"""
