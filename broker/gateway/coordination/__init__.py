"""What agents do with each other beside messages: presence, pings, contacts, the inbox."""
