<?php

namespace Integration\PaymentService;

/**
 * Pays back a payment of Bitrix, whole or in part, by the account that it was made with.
 *
 * As long as one refund's outcome is not known, no other one is begun. What was paid back so far is part of the
 * Idempotency-Key and has to be what the order shows: a page that was opened before the last refund cannot make a second one.
 * One refund of a payment is made at a time, so that of two managers at once one sees what the other has done.
 */
final class Refunds
{
    private $client;
    private $folder;

    public function __construct(Client $client, string $folder)
    {
        $this->client = $client;
        $this->folder = $folder;
    }

    /**
     * @param string $voucher Kaspi's id of the payment, as the order has it; '' when it has none
     * @param int $tiyn how much
     * @param int $shownTiyn what the order shows as paid back so far
     * @return array the refund as the service shows it: external_id, refunded_amount, total_refunded_amount, remaining_amount
     * @throws PaymentServiceException one of its kinds; OutcomeUnknown also while an earlier refund is not known
     */
    public function payBack(BitrixPaymentId $id, string $voucher, int $tiyn, int $shownTiyn): array
    {
        $lock = Files::lockOf($this->folder . '/refunds', (string) $id);
        $done = Files::locked($lock, true, function () use ($id, $voucher, $tiyn, $shownTiyn): array {
            return $this->payBackAlone($id, $voucher, $tiyn, $shownTiyn);
        });
        if ($done === null) {
            throw new Unavailable('The folder of the payment service\'s client cannot be written. Nothing was sent.');
        }

        return $done;
    }

    private function payBackAlone(BitrixPaymentId $id, string $voucher, int $tiyn, int $shownTiyn): array
    {
        $payment = $this->client->getPayment($this->paid($id, $voucher)['id']);
        $whole = Amount::tiyn($payment['amount']);
        $refunded = empty($payment['refunded_amount']) ? 0 : Amount::tiyn($payment['refunded_amount']);
        $failed = 0;
        foreach ($payment['refunds'] as $refund) {
            if (!in_array($refund['state'], ['succeeded', 'failed'], true)) {
                throw new OutcomeUnknown(
                    "It is not known whether Kaspi paid back {$refund['amount']} tenge of this payment. "
                    . "Nothing more is paid back before somebody has looked in the seller's Kaspi Pay.",
                    ['id' => $payment['id']]
                );
            }
            $failed += $refund['state'] === 'failed' ? 1 : 0;
        }
        if ($refunded !== $shownTiyn) {
            throw new BadRequest(
                'Kaspi has paid back ' . Amount::text($refunded) . ' tenge of this payment, and the order shows '
                . Amount::text($shownTiyn) . '. Have the order check the payment, open it anew, and see what is left.'
            );
        }
        $options = ['attempt' => "$refunded-$failed"];
        $isAll = $tiyn === $whole || $tiyn === $whole - $refunded;

        return $isAll
            ? $this->client->refundAll($payment['shop_id'], $payment['external_id'], $options)
            : $this->client->refund($payment['shop_id'], $payment['external_id'], Amount::text($tiyn), $options);
    }

    private function paid(BitrixPaymentId $id, string $voucher): array
    {
        $paid = array_values(array_filter($this->client->findPayments(null, (string) $id), static function (array $one) use ($voucher): bool {
            return $one['state'] === 'paid' && ($voucher === '' || $one['external_id'] === $voucher);
        }));
        if (count($paid) !== 1) {
            throw new BadRequest(
                $paid === [] ? 'The service has no payment of this order that was paid.' : 'This was paid more than once: refund it in the console.'
            );
        }

        return $paid[0];
    }
}
