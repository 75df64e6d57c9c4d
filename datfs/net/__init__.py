"""The network side: wire protocol (pure), sessions and the swarm (trio). Nothing below :mod:`datfs.client` imports it."""
