"""Many payments without asking for them one by one: copies of one real payment, made by SQL.

One payment is made through the API. Its rows, in whatever columns this commit has, are repeated with ids and times of
their own, triggers and foreign keys off, so that they are what the service itself would have written; of its
events there is the last alone, and what it says is cut short.
"""

import asyncpg

FIRST_ID = 11_000_000_000
"""The provider's ids of the copies follow it."""
_TABLES = {
    "payment": {
        "id": "made.id",
        "external_id": "made.external_id",
        "short_code": "substr(md5(made.number::text), 1, 6)",
        "fingerprint": "encode(sha256(made.number::text::bytea), 'hex')",
        "message": "'earlier ' || made.number",
        "phone_last4": "lpad((made.number % 10000)::text, 4, '0')",
        "created_at": "made.at",
        "updated_at": "made.at",
        "moved_at": "made.at",
        "known_at": "made.at",
        "next_check_at": "made.due",
    },
    "payment_log": {
        "payment_id": "made.id",
        "external_id": "made.external_id",
        # A hash index over a million equal values takes the square of their number to be made.
        "request_id": "made.id::text",
        "created_at": "made.at",
    },
    "event": {
        "id": "uuidv7()",
        "subject_id": "made.id",
        "data": "jsonb_build_object('id', made.id)",
        "created_at": "made.at",
        "passed_on_at": "made.at",
    },
    "pgqueuer": {
        "payload": "made.id::text::bytea",
        "dedupe_key": "'copy:' || made.id",
        "created": "made.at",
        "updated": "made.at",
        "execute_after": "made.due",
    },
}
_OF_THE_PAYMENT = {
    "payment": "old.id = $1",
    "payment_log": "old.payment_id = $1",
    "event": "old.id = (SELECT id FROM event WHERE subject_id = $1::text ORDER BY version DESC LIMIT 1)",
    "pgqueuer": "old.payload = $1::text::bytea",
}


async def repeat(
    url: str, payment_id: str, rows: int, *, over: str, due_in: str | None, together: int = 0, every: str = "0"
) -> None:
    """Repeat a payment.

    ``over`` is the interval before now over which the copies were made; ``due_in`` the interval from now after which
    they are to be asked about, none for never: all at once, or so many together and the next so many ``every`` later.
    """
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "SET session_replication_role = replica; SET maintenance_work_mem = '512MB'; SET synchronous_commit = off"
        )
        # The BIN of the copies is that of the payment, and to check it anew takes longer than all the rest.
        checking = await connection.fetchval("SELECT pg_get_functiondef('bin_is_valid(text)'::regprocedure)")
        await connection.execute(
            "CREATE OR REPLACE FUNCTION bin_is_valid(bin text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true'"
        )
        ago = f"interval '{over}' * (1 - number::float8 / {rows})"
        due = f"now() + interval '{due_in}'" if due_in else "NULL::timestamptz"
        due += f" + (number - 1) / {together} * interval '{every}'" if together else ""
        await connection.execute(
            f"CREATE TEMP TABLE made AS SELECT number, uuidv7(-{ago}) AS id, now() - {ago} AS at, {due} AS due, "
            f"({FIRST_ID} + number)::text AS external_id FROM generate_series(1, {rows}) AS number"
        )
        for table, changed in _TABLES.items():
            columns = await connection.fetch(
                "SELECT column_name FROM information_schema.columns WHERE table_name = $1 AND table_schema = 'public' "
                "AND is_identity = 'NO' AND is_generated = 'NEVER' "
                "AND column_default IS DISTINCT FROM format('nextval(''%s_id_seq''::regclass)', $1)",
                table,
            )
            if not columns or (table == "pgqueuer" and due_in is None):
                continue
            names = [column["column_name"] for column in columns]
            indexes = await drop_indexes(connection, table) if rows > 50_000 else []
            values = [changed.get(name, f"old.{name}") for name in names]
            which = _OF_THE_PAYMENT[table].replace("$1", f"'{payment_id}'")
            await connection.execute(
                f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)} "
                f"FROM {table} AS old, made WHERE {which}"
            )
            for index in indexes:
                await connection.execute(index)
            await connection.execute(f"VACUUM ANALYZE {table}")
        await connection.execute(checking)
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def drop_indexes(connection: asyncpg.Connection, table: str) -> list[str]:
    """Drop what can be made again after the rows, which takes a tenth of the time; returns how."""
    found = await connection.fetch(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = $1 AND schemaname = 'public' AND NOT EXISTS "
        "(SELECT FROM pg_constraint WHERE conname = indexname)",
        table,
    )
    for index in found:
        await connection.execute(f"DROP INDEX {index['indexname']}")
    return [index["indexdef"].replace(" ON ONLY ", " ON ") for index in found]
