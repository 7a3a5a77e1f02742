"""Messages to people: which chats are told of which events, in which language, over which channel."""
