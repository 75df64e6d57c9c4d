"""The network side: wire protocol (pure), sessions and the swarm (trio). Only :mod:`datfs.client` and up import it."""
