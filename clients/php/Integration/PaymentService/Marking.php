<?php

namespace Integration\PaymentService;

/** Brings an order to what the service says of a payment: the one way for events, pages, checks and what no event told. */
final class Marking
{
    /**
     * @param string $orderId as OrderAccess takes it
     * @param array $payment as GET /payments/{id} shows it
     * @return string one of the words of OrderAccess; '' when it is not paid, so that there is nothing to mark
     */
    public static function apply(OrderAccess $orders, string $orderId, array $payment): string
    {
        if (($payment['state'] ?? '') !== 'paid') {
            return '';
        }
        $tiyn = Amount::tiyn($payment['amount'] ?? null);
        $refunded = empty($payment['refunded_amount']) ? 0 : Amount::tiyn($payment['refunded_amount']);
        $word = $refunded < $tiyn ? $orders->markPaid($orderId, $tiyn, $payment) : '';
        if ($refunded === 0 || in_array($word, OrderAccess::NEEDS_PEOPLE, true)) {
            return $word;
        }

        return $orders->markRefunded($orderId, $refunded, $refunded >= $tiyn, $payment);
    }
}
