"""The statements on the path of a payment, by hand: one to write an intent, one to write a move. Both run prepared.

An intent is the function ``payment_intend`` (migration 0009), which returns the obstacle if there is one. A move is one
UPDATE with its audit entry and its events, which ``record.recorded`` makes. A move is
written only over the row that it was decided on: if that changed meanwhile, nothing is written and the move is decided
again.
"""

from typing import Final

from payment_service.payments.record import recorded

INTEND: Final = f"SELECT * FROM payment_intend({', '.join(f'${n}' for n in range(1, 21))})"

_UTC: Final = """to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""


def moment(column: str) -> str:
    """The SQL of a time in the form that events show."""
    return _UTC.format(column)


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
