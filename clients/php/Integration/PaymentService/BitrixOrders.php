<?php

namespace Integration\PaymentService;

/**
 * Orders of Bitrix's module sale. The order_id of a payment is the ID of the order, as Order::getId() gives it; a site
 * that uses account numbers extends this class and overrides load().
 */
class BitrixOrders implements OrderAccess
{
    public function markPaid(string $orderId, int $tiyn, array $payment): string
    {
        $order = $this->load($orderId);
        if ($order === null) {
            return self::NO_SUCH_ORDER;
        }
        $ours = $this->paymentOf($order, $tiyn, $payment);
        if ($ours === null) {
            return self::AMOUNT_DIFFERS;
        }
        if ($ours->isPaid()) {
            return self::ALREADY;
        }
        self::insist($ours->setPaid('Y'));
        $ours->setField('PAY_VOUCHER_NUM', (string) ($payment['external_id'] ?? ''));
        self::insist($order->save());

        return self::DONE;
    }

    public function markRefunded(string $orderId, int $refundedTiyn, bool $wholly, array $payment): string
    {
        $order = $this->load($orderId);
        if ($order === null) {
            return self::NO_SUCH_ORDER;
        }
        $tiyn = Amount::tiyn($payment['amount'] ?? null);
        $ours = $this->paymentOf($order, $tiyn, $payment);
        if ($ours === null) {
            return self::AMOUNT_DIFFERS;
        }
        $comment = 'Refunded ' . Amount::text($refundedTiyn) . ' of ' . Amount::text($tiyn) . ' tenge';
        if ($ours->getField('PAY_RETURN_COMMENT') === $comment) {
            return self::ALREADY;
        }
        // Not setReturn(): Bitrix would ask the pay system to pay back once more, or credit the buyer's inner account.
        $ours->setField('PAY_RETURN_NUM', (string) ($payment['external_id'] ?? ''));
        $ours->setField('PAY_RETURN_COMMENT', $comment);
        if ($wholly && $ours->isPaid()) {
            self::insist($ours->setPaid('N'));
        }
        self::insist($order->save());

        return self::DONE;
    }

    /** @return \Bitrix\Sale\Order|null */
    protected function load(string $orderId)
    {
        \Bitrix\Main\Loader::includeModule('sale');

        return preg_match('/^[1-9]\d{0,9}$/D', $orderId) ? \Bitrix\Sale\Order::load((int) $orderId) : null;
    }

    /** The payment of the order that this one is: known by Kaspi's id, else of this sum, one that nobody paid before one that was paid by hand. */
    private function paymentOf($order, int $tiyn, array $payment)
    {
        $free = null;
        foreach ($order->getPaymentCollection() as $one) {
            $voucher = (string) $one->getField('PAY_VOUCHER_NUM');
            if ($one->isInner() || (int) round($one->getSum() * 100) !== $tiyn) {
                continue;
            }
            if ($voucher !== '' && $voucher === (string) ($payment['external_id'] ?? '')) {
                return $one;
            }
            if ($voucher === '' && ($free === null || ($free->isPaid() && !$one->isPaid()))) {
                $free = $one;
            }
        }

        return $free;
    }

    private static function insist($result): void
    {
        if (!$result->isSuccess()) {
            throw new \RuntimeException('Bitrix refused: ' . implode(' ', $result->getErrorMessages()));
        }
    }
}
