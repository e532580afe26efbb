"""The delivery trade of one shard: what lies in its mailboxes is pushed, tried again, settled."""
