<?php

namespace Integration\PaymentService;

/**
 * The course of one payment of Bitrix: what a buyer is shown, and the one place where money is asked for.
 *
 * The service is the only memory. What it has of this payment says which attempt is next, so reload, back button, double click
 * and two processes ask under one Idempotency-Key. As long as one attempt may still be paid, no other is begun.
 */
final class Checkout
{
    /** Nothing is under way: attempt `attempt` may be asked for. */
    const FORM = 'form';
    /** It may still be paid, or may have been: wait, ask for nothing. */
    const WAITING = 'waiting';
    const PAID = 'paid';
    /** The service cannot be asked now, so nothing is known and nothing is sent. */
    const AWAY = 'away';
    /** It cannot be paid in this way until people have changed something. */
    const CLOSED = 'closed';

    private $client;
    private $folder;

    public function __construct(Client $client, string $folder)
    {
        $this->client = $client;
        $this->folder = $folder;
    }

    /**
     * Where a payment stands.
     *
     * @param float $waitS wait this long for a change of what may still be paid, in seconds
     * @return array step (one of the above), attempt (the next one), payment (as the service shows it; null without one),
     *     reason ('' or one word)
     */
    public function look(BitrixPaymentId $id, float $waitS = 0.0): array
    {
        try {
            $all = $this->client->findPayments(null, (string) $id);
            $standing = self::standing($all);
            if ($waitS <= 0 || $standing['step'] !== self::WAITING) {
                return $standing;
            }
            $now = $this->client->getPayment($standing['payment']['id'], $waitS);

            return self::standing(array_map(static function (array $one) use ($now): array {
                return $one['id'] === $now['id'] ? $now : $one;
            }, $all));
        } catch (PaymentServiceException $away) {
            return self::said(self::AWAY, 0, null, 'away');
        }
    }

    /**
     * Ask for a payment, if this attempt is the next one.
     *
     * @param array $payment shop_id, amount (tenge), message, metadata; phone for an invoice, none for a link
     * @return array as look()
     * @throws Unavailable when the client's own folder cannot be written; nothing was sent
     */
    public function pay(BitrixPaymentId $id, array $payment, int $attempt): array
    {
        $lock = $this->folder . '/checkout/' . substr(hash('sha256', (string) $id), 0, 2) . '.lock';
        $standing = Files::locked($lock, true, function () use ($id, $payment, $attempt): array {
            $before = $this->look($id);
            if ($before['step'] !== self::FORM || $before['attempt'] !== $attempt) {
                return $before;
            }

            return $this->ask($id, ['order_id' => (string) $id, 'attempt' => $attempt] + $payment);
        });
        if ($standing === null) {
            throw new Unavailable('The folder of the payment service\'s client cannot be written. Nothing was sent.');
        }

        return $standing;
    }

    /** What lets a page ask for the state of this payment, and of no other one. */
    public static function token(BitrixPaymentId $id, string $secret): string
    {
        return substr(hash_hmac('sha256', 'waits for ' . $id, $secret), 0, 32);
    }

    private function ask(BitrixPaymentId $id, array $payment): array
    {
        try {
            $made = isset($payment['phone']) ? $this->client->createPayment($payment) : $this->client->createPaymentLink($payment);

            return in_array($made['state'], ['failed', 'cancelled'], true) ? $this->after($id, 'refused') : self::standing([$made]);
        } catch (OutcomeUnknown $unknown) {
            return self::said(self::WAITING, $payment['attempt'], null, 'unknown');
        } catch (Unavailable $notSent) {
            // The failed attempt is on record where there is one: the next has a number of its own.
            return $this->after($id, $notSent->getErrorCode() === 'rate_limited' ? 'busy' : 'not_sent');
        } catch (Rejected $refused) {
            return $this->after($id, 'refused');
        } catch (BadRequest $wrong) {
            if ($wrong->getErrorCode() === 'idempotency_key_reused') {
                return $this->after($id, 'busy');  // this attempt was asked for with another phone, a moment ago
            }
            $isPhone = in_array('phone', array_column($wrong->getFacts()['errors'] ?? [], 'field'), true);

            return $isPhone ? $this->after($id, 'phone') : self::said(self::CLOSED, 0, null, 'settings');
        } catch (NotFound | Inactive $noSeller) {
            return self::said(self::CLOSED, 0, null, 'seller');
        }
    }

    private function after(BitrixPaymentId $id, string $reason): array
    {
        $standing = $this->look($id);

        return $standing['step'] === self::FORM ? ['reason' => $reason] + $standing : $standing;
    }

    /** @param array $all what the service has of one payment, newest first */
    private static function standing(array $all): array
    {
        $open = null;
        $ended = 0;
        foreach ($all as $one) {
            $state = $one['state'] ?? '';
            if ($state === 'paid' && !self::isWhollyRefunded($one)) {
                return self::said(self::PAID, 0, $one, '');
            }
            if (in_array($state, ['paid', 'failed', 'cancelled'], true)) {
                ++$ended;
            } else {
                $open = $open ?? $one;
            }
        }
        if ($open !== null) {
            return self::said(self::WAITING, 0, $open, $open['state'] === 'unknown' ? 'unknown' : '');
        }

        $last = $all[0] ?? null;

        return self::said(self::FORM, $ended + 1, $last, $last === null || $last['state'] === 'paid' ? '' : 'ended');
    }

    private static function isWhollyRefunded(array $payment): bool
    {
        return !empty($payment['refunded_amount']) && Amount::tiyn($payment['refunded_amount']) >= Amount::tiyn($payment['amount']);
    }

    private static function said(string $step, int $attempt, ?array $payment, string $reason): array
    {
        return ['step' => $step, 'attempt' => $attempt, 'payment' => $payment, 'reason' => $reason];
    }
}
