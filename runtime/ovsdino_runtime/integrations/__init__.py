"""Connectors to other tools. Each module needs one optional library, which it imports on use."""
