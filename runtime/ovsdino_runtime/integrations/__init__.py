"""Connectors to other tools: each module needs one optional library, which it imports when it is called."""
