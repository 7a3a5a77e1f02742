<?php

namespace Integration\PaymentService;

/**
 * Takes the service's events (Standard Webhooks) and marks orders paid or refunded.
 *
 * An event counts if one of our secrets signed it and it was sent at most AGE_S ago. An event that was taken is not taken
 * again, and neither is one that is older than what is known of its payment: events may overtake each other. One that
 * happened before all that is remembered may have been taken, or overtaken: it is for people.
 */
class WebhookReceiver
{
    const AGE_S = 300;
    const MAX_BYTES = 65536;
    /** A person had said that it was paid, or paid back, and took it back: how its order is marked, only people can tell. */
    const UNDONE = 'settlement_undone';
    /** It happened longer ago than events are remembered. */
    const FORGOTTEN = 'forgotten';
    /**
     * Events whose payment is looked at. Each of a refund shows that its payment is paid, with a newer version than
     * payment.paid, which is too old when it comes after one of them.
     */
    const TOLD = ['payment.paid', 'payment.late_success', 'refund.succeeded', 'refund.failed', 'refund.unknown'];

    private $secrets;
    private $orders;
    private $log;
    private $taken;
    private $clock;

    /**
     * @param string[] $secrets whsec_...; several while the secret is being changed
     * @param string $folder the client's own folder
     * @throws BadRequest when a secret is none
     */
    public function __construct(array $secrets, OrderAccess $orders, string $folder, ?Log $log = null, ?callable $clock = null)
    {
        $this->log = $log ?? new Log($folder);
        $this->secrets = [];
        foreach ($secrets as $secret) {
            $this->log->hide($secret);
            $bytes = strncmp($secret, 'whsec_', 6) === 0 ? base64_decode(substr($secret, 6), true) : false;
            if ($bytes === false || Bytes::in($bytes) < 16) {
                throw new BadRequest('A webhook secret is whsec_ and base64, as the service showed it.');
            }
            $this->secrets[] = $bytes;
        }
        if ($this->secrets === []) {
            throw new BadRequest('The setting payment_service_webhook_secret is missing.');
        }
        $this->orders = $orders;
        $this->clock = $clock ?? 'time';
        $this->taken = new TakenPayments($folder, $this->clock);
    }

    /**
     * Take one delivery.
     *
     * @param array $headers webhook-id, webhook-timestamp, webhook-signature, by lower-case name
     * @return array{0: int, 1: string} HTTP status and one word: 2xx means that it need not come again
     */
    public function receive(array $headers, string $body): array
    {
        $refusal = $this->refusal($headers, $body);
        if ($refusal !== null) {
            $this->log->error('webhook.refused', ['because' => $refusal]);
            $this->log->count('webhook.refused');

            return [$refusal === 'too_large' ? 413 : ($refusal === 'bad_signature' ? 401 : 400), $refusal];
        }
        $event = json_decode($body, true);
        // An event of a refund holds the payment as it stood then.
        $payment = $event['data']['payment'] ?? $event['data'] ?? null;
        if (!is_string($event['type'] ?? null) || !is_array($payment)) {
            return [400, 'no_event'];
        }
        $id = (string) $headers['webhook-id'];
        $about = is_scalar($payment['id'] ?? null) ? (string) $payment['id'] : $id;
        // The payment's version: the event's own is that of the refund when it tells of one.
        $version = is_int($payment['version'] ?? null) ? $payment['version'] : 0;
        try {
            $word = $this->taken->take($about, $id, $version, function (bool $isRemembered) use ($event, $payment): string {
                $isForgotten = !$isRemembered && in_array($event['type'], self::TOLD, true) && $this->isOfBeforeMemory($event);

                return $isForgotten ? self::FORGOTTEN : $this->apply($event, $payment);
            });
        } catch (\Throwable $problem) {
            $this->log->error('webhook.failed', ['webhook_id' => $id, 'type' => $event['type'], 'because' => $problem->getMessage()]);
            $word = null;
        }
        if ($word === null) {
            $this->log->count('webhook.failed');

            return [500, 'try_again'];
        }
        $facts = ['webhook_id' => $id, 'type' => $event['type'], 'payment' => $about, 'order_id' => $payment['order_id'] ?? null, 'result' => $word];
        if (in_array($word, [self::UNDONE, self::FORGOTTEN], true) || in_array($word, OrderAccess::NEEDS_PEOPLE, true)) {
            $this->log->error('webhook.needs_people', $facts);
        } else {
            $this->log->info('webhook.received', $facts);
        }
        $this->log->count('webhook.' . $word);

        return [200, $word];
    }

    private function isOfBeforeMemory(array $event): bool
    {
        $happened = is_string($event['timestamp'] ?? null) ? strtotime($event['timestamp']) : false;

        return $happened !== false && $happened < ($this->clock)() - TakenPayments::KEPT_DAYS * 86400;
    }

    private function apply(array $event, array $payment): string
    {
        $order = $payment['order_id'] ?? null;
        $mayBeUndone = in_array($event['type'], ['payment.unknown', 'refund.unknown'], true);
        $isUndone = $mayBeUndone && ($event['data']['error_code'] ?? '') === self::UNDONE;
        if ($isUndone) {
            return self::UNDONE;
        }
        if (!in_array($event['type'], self::TOLD, true)) {
            return 'ignored';
        }
        if (!is_scalar($order) || (string) $order === '') {
            return OrderAccess::NO_SUCH_ORDER;
        }

        return Marking::apply($this->orders, (string) $order, $payment) ?: 'ignored';
    }

    /** Why a delivery is not to be believed; null when it is. */
    private function refusal(array $headers, string $body): ?string
    {
        $id = (string) ($headers['webhook-id'] ?? '');
        $sentAt = (string) ($headers['webhook-timestamp'] ?? '');
        if (Bytes::in($body) > self::MAX_BYTES) {
            return 'too_large';
        }
        if ($id === '' || Bytes::in($id) > 200 || !preg_match('/^\d{1,12}$/D', $sentAt)) {
            return 'bad_headers';
        }
        if (!$this->isSigned($id . '.' . $sentAt . '.' . $body, (string) ($headers['webhook-signature'] ?? ''))) {
            return 'bad_signature';
        }

        return abs(($this->clock)() - (int) $sentAt) > self::AGE_S ? 'too_old' : null;
    }

    private function isSigned(string $signed, string $signatures): bool
    {
        $good = false;
        foreach (preg_split('/ +/', $signatures, 20, PREG_SPLIT_NO_EMPTY) as $signature) {
            foreach ($this->secrets as $secret) {
                $good = hash_equals('v1,' . base64_encode(hash_hmac('sha256', $signed, $secret, true)), $signature) || $good;
            }
        }

        return $good;
    }
}
