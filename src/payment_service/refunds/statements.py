"""The statements on the path of a refund: one to write an intent, one to write a move (see payments/statements.py)."""

from typing import Final

from payment_service.payments.record import recorded
from payment_service.payments.statements import moment

INTEND: Final = f"SELECT * FROM refund_intend({', '.join(f'${n}' for n in range(1, 10))})"

# The payment's sums in tenge, as JSON shows them: 50, or 50.5. It may have been read before it was paid.
_DATA: Final = f"""jsonb_build_object(
    'version', version, 'updated_at', {moment("updated_at")}, 'moved_at', {moment("moved_at")},
    'payment', $20::jsonb || jsonb_build_object(
      'state', payment_state, 'status', payment_status, 'moved_at', {moment("payment_moved_at")},
      'refunded_amount', trim_scale(refunded_amount / 100.0), 'version', payment_version,
      'updated_at', {moment("payment_updated_at")}))"""

MOVE: Final = f"""
WITH refunded AS (
  -- ``state`` is no bare column: see payments/statements.py.
  UPDATE refund SET state = $4::text, failure = $5::text, error_code = $6::text, error_message = $7::text,
    provider_refund_id = $8::text
  WHERE id = $1::uuid AND state || '' = $2::text AND version = $3::integer
  RETURNING *
), sums AS (
  UPDATE payment SET reserved_amount = reserved_amount + $9::bigint, refunded_amount = refunded_amount + $10::bigint
  FROM refunded WHERE payment.id = refunded.payment_id
  RETURNING payment.*
), moved AS (
  SELECT refunded.id, refunded.payment_id, refunded.id AS refund_id, refunded.version, refunded.updated_at,
    refunded.moved_at, refunded.known_at, refunded.state, refunded.error_message, NULL::text AS status,
    sums.shop_id, sums.organization_bin, sums.external_id, sums.provider, sums.refunded_amount, sums.reserved_amount,
    sums.version AS payment_version, sums.updated_at AS payment_updated_at, sums.moved_at AS payment_moved_at,
    sums.state AS payment_state, sums.status AS payment_status, true AS changed
  FROM refunded JOIN sums ON sums.id = refunded.payment_id
),{recorded(11, _DATA)}
SELECT version, updated_at, moved_at, known_at, refunded_amount, reserved_amount, payment_version, payment_updated_at
FROM moved
"""
