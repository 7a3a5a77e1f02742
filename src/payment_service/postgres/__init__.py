"""PostgreSQL: connections, sessions, listening, queue, pages of rows, encrypted columns, the schema."""
