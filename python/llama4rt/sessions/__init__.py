"""Sessions: texts that an engine has read and answered, kept by name beside a store of keys and values.

session.py is what people call; state.py is what a session is; session_file.py is how it lies in a file, and
directory.py where. Keys and values themselves are the business of the native store (csrc/runtime/store).
"""
