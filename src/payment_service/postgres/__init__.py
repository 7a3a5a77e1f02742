"""PostgreSQL: connections, statements, notifications, pages of rows, encrypted columns, the schema."""
