"""Anthropic's Messages API over the chat endpoint: what its SDK and Claude Code speak."""
