"""Ollama's API as a thin form of the chat and completion endpoints: enough for its clients, of one model."""
