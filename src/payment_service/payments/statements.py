"""The statements on the path of a payment, by hand: one to write an intent, one to write a move. Both run prepared.

An intent is the function ``payment_intend`` (migration 0009), which returns the obstacle if there is one. A move is one
UPDATE with its audit entry and its events; ``recorded`` makes the last two for payments and refunds alike. A move is
written only over the row that it was decided on: if that changed meanwhile, nothing is written and the move is decided
again.
"""

from typing import Final

INTEND: Final = f"SELECT * FROM payment_intend({', '.join(f'${n}' for n in range(1, 21))})"

_UTC: Final = """to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""


def moment(column: str) -> str:
    """The SQL of a time in the form that events show."""
    return _UTC.format(column)


def recorded(first: int, data: str) -> str:
    """The audit entry and the events of ``moved``, whose ``changed`` says whether its state did.

    Takes nine parameters from ``first`` on: operation type, actor, request id, reason, and of the events ids, types,
    the subject's word and its data, into which ``data`` (SQL) merges what only the database knows; then the amount in
    tiyn. ``moved`` has the columns id, payment_id, refund_id, version, shop_id, organization_bin, external_id, status,
    state, error_message, provider and changed.
    """
    operation, actor, request, reason, ids, types, subject, known, amount = (f"${first + n}" for n in range(9))
    return f"""
logged AS (
  INSERT INTO payment_log (shop_id, organization_bin, operation_type, external_id, amount, status, state,
    error_message, provider, payment_id, refund_id, actor, source, request_id, reason)
  SELECT shop_id, organization_bin, {operation}::text, external_id, {amount}::bigint, status, state,
    error_message, provider, payment_id, refund_id, {actor}::text, 'service', {request}::text, {reason}::text
  FROM moved WHERE changed
), told AS (
  INSERT INTO event (id, type, subject, subject_id, version, shop_id, data)
  SELECT event.id, event.type, {subject}::text, moved.id, moved.version, moved.shop_id, {known}::jsonb || {data}
  FROM moved, unnest({ids}::uuid[], {types}::text[]) AS event (id, type) WHERE moved.changed
)"""


_DATA: Final = f"""jsonb_build_object(
    'version', version, 'updated_at', {moment("updated_at")}, 'moved_at', {moment("moved_at")})"""

MOVE: Final = f"""
WITH moved AS (
  UPDATE payment SET state = $6::text, status = $7::text, external_id = $8::text, payment_link = $9::text,
    expire_date = $10::timestamptz, failure = $11::text, error_code = $12::text, error_message = $13::text,
    error_seen_at = $14::timestamptz, id_from_settlement = $15::boolean, unread = $16::integer,
    next_check_at = CASE WHEN $17::boolean THEN now() + make_interval(secs => $18::float8) ELSE next_check_at END
  -- What the decision looked at. No column of an index, or of its predicate, stands bare here, but for the id: the
  -- planner would take the index of what is sending, or of external ids, which are full of dead entries.
  WHERE id = $1::uuid AND state || '' = $2::text AND version = $3::integer
    AND coalesce(external_id, '') = coalesce($4::text, '') AND error_seen_at IS NOT DISTINCT FROM $5::timestamptz
    AND num_nulls(same_as) = 1
  RETURNING id, id AS payment_id, NULL::uuid AS refund_id, version, shop_id, organization_bin, external_id, status,
    state, error_message, provider, state <> $2::text AS changed, updated_at, moved_at, known_at, next_check_at
),{recorded(19, _DATA)}
SELECT version, updated_at, moved_at, known_at, next_check_at FROM moved
"""
