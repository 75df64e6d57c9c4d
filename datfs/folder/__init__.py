"""A person's folder as the source of a drive: what is in it, what differs from the drive, and how it gets there."""
