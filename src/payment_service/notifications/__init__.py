"""Messages to people: which chats receive which events, in which language, over which channel."""
